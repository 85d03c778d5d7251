"""The notes below a table, which state how its numbers were measured and what limits their comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pixelflow.metrics.catalogue import MetricInfo
from pixelflow.reporting.axes import axis_values, differing_keys, spell
from pixelflow.reporting.rows import PaperRow, Row
from pixelflow.reporting.runs import Run
from pixelflow.runs.flat import flatten

EVALUATION_KEYS = (
    "num_samples",
    "reference",
    "features",
    "solver",
    "nfe",
    "guidance",
    "weights",
    "step",
    "device",
    "batch_size",
)
"""Keys of an evaluation's record that influence its numbers."""
UNKNOWN = "unknown"


def evaluation_facts(runs: Iterable[Run]) -> dict[str, tuple[str, ...]]:
    """Returns how the runs of a row were evaluated: for each flat key of the records, the different values as text."""
    records = []
    for run in runs:
        flat = flatten({key: run.record[key] for key in EVALUATION_KEYS if key in run.record})
        records.append({key.removesuffix("._target_"): _fact(key, value) for key, value in flat.items()})
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: tuple(sorted({record.get(key, UNKNOWN) for record in records})) for key in keys}


def _fact(key: str, value: Any) -> str:
    # The name of a class is enough: its path only adds where the code is.
    return spell(value).rpartition(".")[2] if key.endswith("_target_") else spell(value)


def together(configs: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> list[str]:
    """Returns a note on the settings that differ between the rows but have no column.

    Without it, a difference between two rows would seem to be caused by the columns alone.
    """
    hidden = [key for key in differing_keys(configs) if key not in axes]
    if not hidden:
        return []
    values = [f"{key} ({'; '.join(axis_values(configs, key))})" for key in hidden]
    return [f"The rows also differ in settings without a column: {', '.join(values)}."]


def statistics(rows: Sequence[Row]) -> list[str]:
    """Returns notes on the meaning of ± and of bold numbers."""
    bold = "Bold marks the best mean; the difference from the others is not necessarily significant."
    if all(len(row.runs) == 1 for row in rows):
        spread = "Every row has one seed, so no standard deviation is given."
    else:
        spread = "Values are the mean ± the sample standard deviation (n-1) over seeds"
        spread += "; a row with one seed has no standard deviation." if any(len(row.runs) == 1 for row in rows) else "."
    return [spread, bold] if len(rows) > 1 else [spread]


def evaluations(rows: Sequence[Row], headers: Sequence[str], compared: Sequence[str]) -> list[str]:
    """Returns notes on what all evaluations have in common and where they differ.

    Args:
        rows: The rows of the table.
        headers: Headers of the columns that distinguish the rows.
        compared: Keys of the records that must be equal for two rows to be compared.
    """
    result = []
    keys = list(dict.fromkeys(key for row in rows for key in row.facts))
    common = {key: rows[0].facts.get(key) for key in keys if len({row.facts.get(key) for row in rows}) == 1}
    stated = [f"{key} {values[0]}" for key, values in common.items() if values and len(values) == 1]
    if stated:
        result.append(f"Every row was evaluated with {'; '.join(stated)}.")
    for key in keys:
        if key in common or all(_as_configured(row, key) for row in rows):
            continue
        labels: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            labels.setdefault(row.facts.get(key, (UNKNOWN,)), []).append(row.label)
        differing = "; ".join(f"{' and '.join(values)} for {', '.join(which)}" for values, which in labels.items())
        note = f"The rows ({' | '.join(headers)}) differ in {key}: {differing}."
        result.append(
            f"{note} The best value is marked only among rows that agree in it."
            if key.split(".")[0] in compared
            else note
        )
    for row in rows:
        mixed = [f"{key} {' and '.join(values)}" for key, values in row.facts.items() if len(values) > 1]
        if mixed:
            result.append(f"The mean of row {row.label} combines different evaluations: {', '.join(mixed)}.")
    runs = [run for row in rows for run in row.runs]
    unknown = [run.name for run in runs if "num_samples" not in run.record]
    if unknown:
        which = "any run" if len(unknown) == len(runs) else ", ".join(unknown)
        result.append(f"The sample count is not recorded for {which}.")
    return result


def _as_configured(row: Row, key: str) -> bool:
    """True if the evaluation used the values of the row's config, which its columns already show."""
    config = row.setting.config
    configured = [_fact(name, config[name]) for name in (key, f"{key}._target_") if name in config]
    return row.facts.get(key) == (tuple(configured) or None)


def unlike_cells(rows: Sequence[Row], columns: Sequence[MetricInfo]) -> list[str]:
    """Returns notes on runs without a metric that others of their row have, and on values that are not finite."""
    result = []
    for column in columns:
        for run in (run for row in rows for run in row.runs if column.key in row.cells):
            value = run.metrics.get(column.key)
            if value is None:
                result.append(f"{run.name} has no {column.label}.")
            elif not math.isfinite(value):
                result.append(f"{column.label} of {run.name} is {value}, so its row has no mean.")
    return result


def sources(paper: Sequence[tuple[PaperRow, int | None]]) -> list[str]:
    """Returns one note for each quoted row, numbered as in the table."""
    result = []
    for number, (row, index) in enumerate(paper, 1):
        note = (
            f"[{number}] Quoted from {row.source}, which uses its own protocol: the values were not measured here and "
            "are never marked as best."
        )
        if row.match and index is None:
            match = ", ".join(f"{key}={spell(value)}" for key, value in row.match.items())
            note += f" No measured row has {match}."
        result.append(note)
    return result


def left_out(run: Run) -> str:
    """Returns why a run is not in the table."""
    reason = f", {run.reason}" if run.reason else ""
    if run.state == "finished":
        return f"{run.name}: finished, not evaluated{reason}"
    return f"{run.name}: {run.state}{reason}"
