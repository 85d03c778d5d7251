"""The records of an ablation table: cells, rows, quoted rows, and the table itself."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from pixelflow.metrics.catalogue import MetricInfo
from pixelflow.reporting.axes import Setting
from pixelflow.reporting.runs import Run


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


@dataclass(frozen=True)
class PaperRow:
    """A row with values that are quoted from a publication.

    Args:
        label: Name of the row.
        source: Where the values are published.
        match: Config values of the measured row below which it is shown.
        metrics: Values by the key of the metric, in the units of the stored values.
    """

    label: str
    source: str
    match: dict[str, Any]
    metrics: dict[str, float]


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
