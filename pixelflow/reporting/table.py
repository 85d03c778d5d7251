"""The ablation table: one row per setting with the mean and standard deviation over seeds, and rows quoted from papers.

Rows are compared only if they were evaluated in the same way. The notes below the table state what is needed to judge
the numbers: the number of samples, the runs that are missing, and the source of each quoted value.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pixelflow.errors import UserError
from pixelflow.metrics.catalogue import FULL_SAMPLE_COUNT, MetricInfo, describe, described, known_metrics
from pixelflow.reporting import notes
from pixelflow.reporting.axes import (
    DEFAULT_IGNORE,
    Setting,
    axis_headers,
    axis_values,
    choose_axes,
    group,
    natural,
    spell,
)
from pixelflow.reporting.rows import Cell, PaperRow, Row, Table
from pixelflow.reporting.runs import Run, with_steps
from pixelflow.runs.flat import flatten

QUALITY_FACTS = ("num_samples", "reference", "features")
"""Keys of the evaluation records that must be equal for the quality of two rows to be compared."""
SPEED_FACTS = ("device", "batch_size")
"""Keys of the evaluation records that must be equal for the speed of two rows to be compared."""


def build_table(
    runs: Sequence[Run],
    *,
    paper: Iterable[Mapping[str, Any]] = (),
    ignore: Iterable[str] = DEFAULT_IGNORE,
    axes: Sequence[str] = (),
    command: str = "",
    date: str | None = None,
) -> Table:
    """Returns the table of a sweep.

    Args:
        runs: All runs; those that are not finished and evaluated are named in the notes. Repeated entries are ignored.
        paper: Quoted rows, see `paper_rows`.
        ignore: Config keys that are ignored, with all keys below them, when settings are compared.
        axes: Config keys to show first if they differ between the rows; further ones are added only as far as they are
            needed to distinguish the rows.
        command: The command that makes the table.
        date: The date of the table; by default today's.

    Raises:
        UserError: No run is finished and evaluated, or a quoted row is malformed.
    """
    quoted = paper_rows(paper)
    runs = with_steps([run for number, run in enumerate(runs) if run not in runs[:number]])
    complete = [run for run in runs if run.complete]
    if not complete:
        states = "; ".join(notes.left_out(run) for run in runs[:5])
        raise UserError(f"none of {len(runs)} runs is finished and evaluated, so there is no table ({states})")
    settings, repeats = group(complete, ignore=ignore)
    keys = choose_axes([setting.config for setting in settings], axes)
    rows = _rows(settings, keys)
    columns = _columns(rows, quoted)
    placed = tuple((row, _beneath(row, rows)) for row in quoted)
    headers = tuple(axis_headers(keys)) or ("setting",)
    remarks = (
        *notes.statistics(rows),
        *notes.together([row.setting.config for row in rows], keys),
        *notes.evaluations(rows, headers, QUALITY_FACTS),
        *notes.unlike_cells(rows, columns),
        *notes.sources(placed),
        *repeats,
        *(f"Left out: {notes.left_out(run)}." for run in runs if not run.complete),
    )
    date = date or datetime.date.today().isoformat()
    return Table(tuple(keys), headers, columns, rows, placed, _best(rows, columns), remarks, command, date)


def paper_rows(paper: Iterable[Mapping[str, Any]]) -> list[PaperRow]:
    """Returns the quoted rows of a recipe.

    Args:
        paper: Mappings with `label`, `source`, `metrics` (in the units of the stored values) and optionally `match`.

    Raises:
        UserError: A row lacks one of these keys, or one of its metrics is not in the catalogue or not a number.
    """
    rows = []
    for number, entry in enumerate(paper):
        lacking = [key for key in ("label", "source", "metrics") if not entry.get(key)]
        if lacking:
            raise UserError(f"paper[{number}] has no `{lacking[0]}`; a quoted row needs label, source and metrics")
        if not isinstance(entry["metrics"], Mapping) or not isinstance(entry.get("match") or {}, Mapping):
            raise UserError(f"paper[{number}]: metrics and match must be mappings of keys to values")
        for key, value in entry["metrics"].items():
            if describe(key) is None:
                known = [column.key for column in known_metrics()]
                raise UserError(f"paper[{number}].metrics.{key} is not a known metric; known are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"paper[{number}].metrics.{key}={value!r} is not a number")
        match = flatten(entry.get("match") or {})
        rows.append(PaperRow(str(entry["label"]), str(entry["source"]), match, dict(entry["metrics"])))
    return rows


def _rows(settings: Sequence[Setting], keys: Sequence[str]) -> tuple[Row, ...]:
    settings = sorted(settings, key=lambda setting: natural([setting.config.get(key) for key in keys]))
    configs = [setting.config for setting in settings]
    # A single setting has no axis, so its row is named after the experiment.
    shown = [axis_values(configs, key) for key in keys] or [
        [spell(settings[0].runs[0].config.get("experiment", "ours"))]
    ]
    rows = []
    for setting, values in zip(settings, zip(*shown, strict=True), strict=True):
        cells = {}
        for column in described(name for run in setting.runs for name in run.metrics):
            numbers = tuple(run.metrics[column.key] for run in setting.runs if column.key in run.metrics)
            if numbers:
                cells[column.key] = Cell(numbers)
        rows.append(Row(setting, tuple(values), cells, notes.evaluation_facts(setting.runs)))
    return tuple(rows)


def _columns(rows: Sequence[Row], paper: Sequence[PaperRow]) -> tuple[MetricInfo, ...]:
    """The metrics that any row has, with the sample count in the label where it is below the usual one."""
    columns = []
    measures = [*(key for row in rows for key in row.cells), *(key for row in paper for key in row.metrics)]
    for column in described(measures):
        measured = [row for row in rows if column.key in row.cells]
        counts = {run.record.get("num_samples") for row in measured for run in row.runs}
        known = sorted(count for count in counts if isinstance(count, int))
        if column.biased and known and known[0] < FULL_SAMPLE_COUNT:
            column = replace(column, label=f"{column.label}-{'/'.join(short_count(count) for count in known)}")
        columns.append(column)
    return tuple(columns)


def short_count(count: int) -> str:
    """Returns a sample count as in the name of a metric.

    Examples:
        >>> short_count(10000), short_count(1797)
        ('10k', '1797')
    """
    return str(count) if count % 1000 else f"{count // 1000}k"


def _best(rows: Sequence[Row], columns: Sequence[MetricInfo]) -> frozenset[tuple[int, str]]:
    """The best means among rows that were evaluated in the same way. Values that are shown as equal are tied."""
    best = set()
    for column in columns:
        if column.higher_is_better is None:
            continue
        compared = SPEED_FACTS if column.key == "seconds_per_image" else QUALITY_FACTS
        peers: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
        for index, row in enumerate(rows):
            cell = row.cells.get(column.key)
            if cell and math.isfinite(cell.mean):
                alike = tuple(sorted(fact for fact in row.facts.items() if fact[0].split(".")[0] in compared))
                peers.setdefault(alike, []).append((round(cell.mean * column.scale, column.decimals), index))
        for entries in peers.values():
            if len(entries) > 1:
                top = (max if column.higher_is_better else min)(value for value, _ in entries)
                best |= {(index, column.key) for value, index in entries if value == top}
    return frozenset(best)


def _beneath(quoted: PaperRow, rows: Sequence[Row]) -> int | None:
    """Index of the last row with the values of `match`, or None."""
    if not quoted.match:
        return None
    fitting = [i for i, row in enumerate(rows) if quoted.match.items() <= row.setting.config.items()]
    return fitting[-1] if fitting else None
