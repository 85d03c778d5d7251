"""The ablation table: one row per setting with the mean and standard deviation over seeds, and rows quoted from papers.

Rows are compared only if they were evaluated in the same way. The notes below the table state what is needed to judge
the numbers: the number of samples, the runs that are missing, and the source of each quoted value.
"""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pixelflow.errors import UserError
from pixelflow.metrics.catalogue import FULL_SAMPLE_COUNT, MetricInfo, described
from pixelflow.reporting import notes
from pixelflow.reporting.asked import asked_keys, choices_of
from pixelflow.reporting.axes import (
    DEFAULT_IGNORE,
    Setting,
    axis_headers,
    axis_values,
    choose_axes,
    group,
    natural,
)
from pixelflow.reporting.paper_rows import PaperRow, paper_rows
from pixelflow.reporting.presentation import ARM, Presentation
from pixelflow.reporting.rows import SECONDS, Cell, Row, Table
from pixelflow.reporting.runs import Run, spell, with_steps

EXPERIMENT = "experiment"
QUALITY_FACTS = ("num_samples", "reference", "features")
"""Keys of the evaluation records that must be equal for the quality of two rows to be compared."""
SPEED_FACTS = ("device", "batch_size")
"""Keys of the evaluation records that must be equal for the speed of two rows to be compared."""


def build_table(
    runs: Sequence[Run],
    presentation: Presentation = Presentation(),  # noqa: B008 - immutable
    *,
    ignore: Collection[str] = DEFAULT_IGNORE,
    command: str = "",
    date: str | None = None,
) -> Table:
    """Returns the table of a sweep.

    Args:
        runs: All runs; those that are not finished and evaluated are named in the notes. Repeated entries are ignored.
        presentation: What the recipe states about the table. The keys that it names are shown if they differ between
            the rows; further ones are added only as far as they are needed to distinguish the rows.
        ignore: Config keys that are ignored, with all keys below them, when settings are compared. If "experiment" is
            none of them, the experiment is the first column.
        command: The command that makes the table.
        date: The date of the table; by default today's.

    Raises:
        UserError: No run is finished and evaluated, or a quoted row is malformed.
    """
    quoted = paper_rows(presentation.paper)
    runs = with_steps([run for number, run in enumerate(runs) if run not in runs[:number]])
    complete = [run for run in runs if run.complete]
    if not complete:
        states = "; ".join(notes.left_out(run) for run in runs[:5])
        raise UserError(f"none of {len(runs)} runs is finished and evaluated, so there is no table ({states})")
    settings, repeats = group(complete, ignore=ignore)
    has_arms = any(setting.config.get(ARM) is not None for setting in settings)
    wanted = [] if EXPERIMENT in ignore else [EXPERIMENT]
    asked_for = asked_keys(complete)
    wanted += [ARM, *presentation.axes] if has_arms else presentation.axes or presentation.swept or asked_for
    settings = _with_choices(settings, wanted)
    _require_known(presentation.axes, settings)
    keys = choose_axes([setting.config for setting in settings], wanted, [*presentation.swept, *asked_for])
    rows = _rows(settings, keys, presentation.arms)
    columns = _columns(rows, quoted)
    placed = tuple((row, _beneath(row, rows)) for row in quoted)
    headers = tuple(axis_headers(keys)) or ("setting",)
    remarks = (
        *notes.of_debug(runs),
        *notes.statistics(rows, QUALITY_FACTS),
        *notes.shared(rows),
        *notes.differences(rows, keys, QUALITY_FACTS, presentation.swept),
        *notes.unlike_quality(rows, headers, QUALITY_FACTS),
        *notes.other_work(rows),
        *notes.unlike_cells(rows, columns),
        *notes.sources(placed),
        *repeats,
        *(f"Left out: {notes.left_out(run)}." for run in runs if not run.complete),
    )
    date = date or datetime.date.today().isoformat()
    return Table(
        tuple(keys), headers, columns, rows, placed, _best(rows, columns), remarks, command, date,
        presentation.question, presentation.chart,
    )  # fmt: skip


def _with_choices(settings: Sequence[Setting], wanted: Sequence[str]) -> list[Setting]:
    """The settings with the options of those wanted groups whose choice is recorded for all of them."""
    choices = [choices_of(setting.runs[-1]) for setting in settings]
    groups = [key for key in wanted if all(key in chosen for chosen in choices)]
    return [
        replace(setting, config=setting.config | {group: chosen[group] for group in groups})
        for setting, chosen in zip(settings, choices, strict=True)
    ]


def _require_known(axes: Sequence[str], settings: Sequence[Setting]) -> None:
    """Raises UserError for a key of `axes` that no setting has."""
    known = sorted({key for setting in settings for key in setting.config})
    sections = {key.rpartition(".")[0] for key in known}
    for key in axes:
        if key not in known and key not in sections:
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(f"axes: no run has the key {key}" + (f"; did you mean {near[0]}?" if near else ""))


def _rows(settings: Sequence[Setting], keys: Sequence[str], arms: Sequence[str]) -> tuple[Row, ...]:
    places = {arm: place for place, arm in enumerate(arms)}

    def order(setting: Setting) -> list[tuple[int, Any]]:
        # An arm whose place is known sorts by it, as a number before the texts.
        values = [setting.config.get(key) for key in keys]
        return natural([places.get(spell(v), v) if key == ARM else v for key, v in zip(keys, values, strict=True)])

    settings = sorted(settings, key=order)
    configs = [setting.config for setting in settings]
    # A single setting has no axis, so its row is named after its arm or the experiment.
    only = configs[0].get(ARM) or settings[0].runs[0].config.get(EXPERIMENT, "ours")
    shown = [axis_values(configs, key) for key in keys] or [[spell(only)]]
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
    """The best means among rows that were evaluated in the same way. Values that are shown as equal are tied.

    A row whose distance is far from the best has no best value: images that are not alike can be diverse.
    """
    best = set()
    far = notes.far_rows(rows, QUALITY_FACTS)
    for column in columns:
        if column.higher_is_better is None:
            continue
        compared = SPEED_FACTS if column.key == SECONDS else QUALITY_FACTS
        peers: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
        for index, row in enumerate(rows):
            cell = row.cells.get(column.key)
            timed = column.key == SECONDS
            if cell and math.isfinite(cell.mean) and (row.clean or not timed):
                peers.setdefault(row.alike(compared), []).append(
                    (round(cell.mean * column.scale, column.decimals), index)
                )
        for entries in peers.values():
            near = [(value, index) for value, index in entries if index not in far]
            if len(entries) > 1 and near:
                top = (max if column.higher_is_better else min)(value for value, _ in near)
                best |= {(index, column.key) for value, index in near if value == top}
    return frozenset(best)


def _beneath(quoted: PaperRow, rows: Sequence[Row]) -> int | None:
    """Index of the last row with the values of `match`, or None."""
    if not quoted.match:
        return None
    fitting = [i for i, row in enumerate(rows) if quoted.match.items() <= row.setting.config.items()]
    return fitting[-1] if fitting else None
