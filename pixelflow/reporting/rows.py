"""The records of an ablation table: cells, rows, quoted rows, and the table itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from pixelflow.metrics.catalogue import MetricInfo
from pixelflow.reporting.axes import Setting
from pixelflow.reporting.paper_rows import PaperRow
from pixelflow.reporting.presentation import Chart
from pixelflow.reporting.runs import Run

SECONDS = "seconds_per_image"
CLEAN_LOAD = 0.25
"""Mean number of cores that other processes kept busy, below which a time counts as undisturbed."""


@dataclass(frozen=True)
class Cell:
    """The values of one metric over the seeds of a setting, in the unit in which they are stored."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean; nan if one value is not finite, because leaving that seed out would favour the setting."""
        return statistics.mean(self.values) if all(map(math.isfinite, self.values)) else math.nan

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n-1); None for one seed, nan if one value is not finite."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values) if all(map(math.isfinite, self.values)) else math.nan


@dataclass(frozen=True)
class Row:
    """The row of one setting.

    Args:
        setting: The setting with its runs.
        values: Its values of the table's axes, as shown.
        cells: Measured values by the key of the metric.
        facts: How the runs were evaluated, see `pixelflow.reporting.notes.evaluation_facts`.
    """

    setting: Setting
    values: tuple[str, ...]
    cells: dict[str, Cell]
    facts: dict[str, tuple[str, ...]]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the setting, one per seed."""
        return self.setting.runs

    @property
    def label(self) -> str:
        """The values of the axes as one text."""
        return " | ".join(self.values)

    def alike(self, compared: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Returns the facts that two rows must share to be compared.

        Args:
            compared: Keys of the evaluation records.
        """
        return tuple(sorted(fact for fact in self.facts.items() if fact[0].split(".")[0] in compared))

    @property
    def other_loads(self) -> list[float | None]:
        """The mean number of cores that other processes kept busy while each run drew its samples; None if unknown."""
        loads = [run.record.get("other_load") for run in self.runs]
        return [float(load) if isinstance(load, int | float) else None for load in loads]

    @property
    def clean(self) -> bool:
        """True if the records state that the machine did almost nothing else, so that times can be compared."""
        return all(load is not None and load < CLEAN_LOAD for load in self.other_loads)


def source_numbers(paper: Iterable[tuple[PaperRow, int | None]]) -> dict[str, int]:
    """Returns the number of each source of quoted rows, from 1, in the order of the rows."""
    return {source: number for number, source in enumerate(dict.fromkeys(row.source for row, _ in paper), 1)}


@dataclass(frozen=True)
class Table:
    """An ablation table.

    Args:
        axes: Config keys that distinguish the rows.
        headers: Their headers; ("setting",) if there are no axes.
        columns: Metrics, in order.
        rows: Measured rows.
        paper: Quoted rows, each with the index of the row below which it is shown, or None.
        best: Row index and column key of the values that are marked as best.
        notes: Notes below the table.
        command: The command that made the table.
        date: The date on which it was made.
        question: The question that the runs answer; may be empty.
        chart: What the chart of the table shows; None for its rows.
    """

    axes: tuple[str, ...]
    headers: tuple[str, ...]
    columns: tuple[MetricInfo, ...]
    rows: tuple[Row, ...]
    paper: tuple[tuple[PaperRow, int | None], ...]
    best: frozenset[tuple[int, str]]
    notes: tuple[str, ...]
    command: str
    date: str
    question: str = ""
    chart: Chart | None = None
