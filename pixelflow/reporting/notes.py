"""The notes beneath a table: what a reader must know to judge its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pixelflow.metrics.catalogue import MetricInfo
from pixelflow.reporting.axes import axis_values, differing_keys, spell
from pixelflow.reporting.records import PaperRow, Row
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
"""The keys of an evaluation's record that its numbers depend on."""
UNKNOWN = "unknown"


def evaluation_facts(runs: Iterable[Run]) -> dict[str, tuple[str, ...]]:
    """How the runs of a row were evaluated: flat record key -> the different values as text, usually one."""
    records = []
    for run in runs:
        flat = flatten({key: run.record[key] for key in EVALUATION_KEYS if key in run.record})
        records.append({key.removesuffix("._target_"): _fact(key, value) for key, value in flat.items()})
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: tuple(sorted({record.get(key, UNKNOWN) for record in records})) for key in keys}


def _fact(key: str, value: Any) -> str:
    # A class path says where its code lies, too; its name is what a reader wants.
    return spell(value).rpartition(".")[2] if key.endswith("_target_") else spell(value)


def together(configs: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> list[str]:
    """What differs between the rows and has no column: without it, a column would seem to be the only cause."""
    hidden = [key for key in differing_keys(configs) if key not in axes]
    if not hidden:
        return []
    values = [f"{key} ({'; '.join(axis_values(configs, key))})" for key in hidden]
    return [f"From row to row these differ as well: {', '.join(values)}."]


def statistics(rows: Sequence[Row]) -> list[str]:
    """What ± and bold mean, and what they do not."""
    bold = "Bold is the best mean, which need not be a significant difference."
    if all(len(row.runs) == 1 for row in rows):
        spread = "One seed a row, so no spread is known."
    else:
        spread = "Mean ± sample standard deviation (n-1) over seeds"
        spread += "; a row of one seed has none." if any(len(row.runs) == 1 for row in rows) else "."
    return [spread, bold] if len(rows) > 1 else [spread]


def evaluations(rows: Sequence[Row], headers: Sequence[str], compared: Sequence[str]) -> list[str]:
    """What all evaluations have in common, and where they differ."""
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
        note = f"Rows ({' | '.join(headers)}) differ in {key}: {differing}."
        result.append(f"{note} Best is marked only among equal ones." if key.split(".")[0] in compared else note)
    for row in rows:
        mixed = [f"{key} {' and '.join(values)}" for key, values in row.facts.items() if len(values) > 1]
        if mixed:
            result.append(f"The mean of row {row.label} is over unlike evaluations: {', '.join(mixed)}.")
    runs = [run for row in rows for run in row.runs]
    unknown = [run.name for run in runs if "num_samples" not in run.record]
    if unknown:
        which = "any run" if len(unknown) == len(runs) else ", ".join(unknown)
        result.append(f"The sample count is not recorded for {which}.")
    return result


def _as_configured(row: Row, key: str) -> bool:
    """Whether the evaluation did what the row's config says, so that the columns tell it already."""
    config = row.setting.config
    configured = [_fact(name, config[name]) for name in (key, f"{key}._target_") if name in config]
    return row.facts.get(key) == (tuple(configured) or None)


def unlike_cells(rows: Sequence[Row], columns: Sequence[MetricInfo]) -> list[str]:
    """Runs that lack a number that others of their row have, or whose number is not finite."""
    result = []
    for column in columns:
        for run in (run for row in rows for run in row.runs if column.key in row.cells):
            value = run.metrics.get(column.key)
            if value is None:
                result.append(f"{run.name} has no {column.label}.")
            elif not math.isfinite(value):
                result.append(f"{run.name} has {column.label} {value}, so its row has no mean.")
    return result


def sources(paper: Sequence[tuple[PaperRow, int | None]]) -> list[str]:
    """One note per quoted row, numbered as in the table."""
    result = []
    for number, (row, index) in enumerate(paper, 1):
        note = f"[{number}] Quoted from {row.source}, under its own protocol: not measured here, never marked best."
        if row.match and index is None:
            match = ", ".join(f"{key}={spell(value)}" for key, value in row.match.items())
            note += f" No row of ours has {match}."
        result.append(note)
    return result


def left_out(run: Run) -> str:
    """Why a run is not in the table."""
    reason = f", {run.reason}" if run.reason else ""
    if run.state == "finished":
        return f"{run.name}: finished, not evaluated{reason}"
    return f"{run.name}: {run.state}{reason}"
