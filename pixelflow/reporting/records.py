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
    """One metric over the seeds of a setting, in the metric's own unit."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """nan as soon as one value is not finite: leaving that seed out would flatter the setting."""
        return statistics.mean(self.values) if all(map(math.isfinite, self.values)) else math.nan

    @property
    def std(self) -> float | None:
        """Of the sample (divides by n-1); None for one seed."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values) if all(map(math.isfinite, self.values)) else math.nan


@dataclass(frozen=True)
class Row:
    """A setting. values: its axis values as shown. facts: how its runs were evaluated (`notes.evaluation_facts`)."""

    setting: Setting
    values: tuple[str, ...]
    cells: dict[str, Cell]
    facts: dict[str, tuple[str, ...]]

    @property
    def runs(self) -> tuple[Run, ...]:
        return self.setting.runs

    @property
    def label(self) -> str:
        return " | ".join(self.values)


@dataclass(frozen=True)
class PaperRow:
    """A quoted row. match: config values of the row of ours that it stands beside."""

    label: str
    source: str
    match: dict[str, Any]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Table:
    """axes: config keys that tell the rows apart. headers: how they are shown, one more than axes if there are none.

    paper: quoted rows, each with the index of the row it stands beneath, or None. best: (row index, column key).
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
