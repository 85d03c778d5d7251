"""The chart of a table: one panel per metric over the swept value, and panels of their own for quoted values."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelflow.metrics.catalogue import MetricInfo, describe
from pixelflow.reporting.axes import MISSING, axis_headers, axis_values
from pixelflow.reporting.canvas import (
    COLOR,
    FAINT,
    MARKS,
    SERIES_COLORS,
    new_figure,
    save_figure,
    shown,
    tidy_axes,
)
from pixelflow.reporting.paper_rows import PaperRow
from pixelflow.reporting.presentation import ARM
from pixelflow.reporting.rows import SECONDS, Cell, Table
from pixelflow.reporting.runs import spell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PANEL_SIZE = (3.4, 2.9)
PANELS_PER_LINE = 3
BESIDE_PANEL = 0.8
"""Width in inches of what stands beside the axes of a panel."""
LETTER = 6.2
"""Width in points of a character of a label, with a part of the gap between two labels."""
WIDEST_LABEL = 40
"""Characters of a label below an axis."""
PAPER_COLOR = "#7f7f7f"


@dataclass(frozen=True)
class Point:
    """A measured row in the chart.

    Args:
        x: The value on the horizontal axis: a number, or a text on an axis of categories.
        series: The name of its series; empty if there is one.
        cells: The measured values by metric.
    """

    x: float | str
    series: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Axis:
    """A horizontal axis.

    Args:
        label: Its label.
        scale: "linear", "log" or "category".
        values: The different values, in order.
    """

    label: str
    scale: str
    values: tuple[float | str, ...]

    def place(self, x: float | str) -> float:
        """Returns the position of a value on the axis."""
        return float(self.values.index(x)) if self.scale == "category" else float(x)


def metric_chart(table: Table, path: Path, *, keys: Sequence[str] | None = None) -> Path:
    """Draws one panel per metric, with the mean and standard deviation of each row and a dot for each seed.

    The horizontal axis is the key that the table's chart names, or the only column, or else the rows themselves. Values
    that are quoted for a metric have a panel of their own below it, since another protocol measured them. Times are not
    drawn unless the machine did nothing else.

    Args:
        table: The table.
        path: The PNG file to write.
        keys: Metrics to draw, in this order; by default those of the table's chart, or the main distance and then all
            others but the time.

    Returns:
        The path of the file.

    Raises:
        ValueError: No row has one of the metrics `keys`, or any metric.
    """
    columns = _columns(table, keys)
    key = _x_key(table)
    axis, points = chart_points(table, key)
    paper = {column.key: _paper_points(table, column, key) for column in columns}
    across = min(len(columns), PANELS_PER_LINE)
    lines: list[list[tuple[MetricInfo, bool]]] = []
    for start in range(0, len(columns), across):
        beside = columns[start : start + across]
        lines.append([(column, False) for column in beside])
        if any(paper[column.key] for column in beside):
            lines.append([(column, True) for column in beside])
    figure = _figure(axis, across, len(lines), [label for found in paper.values() for label, _ in found])
    panels = figure.subplots(len(lines), across, squeeze=False)
    for axes, line in zip(panels, lines, strict=True):
        for panel, entry in itertools.zip_longest(axes, line):
            if entry is None or (entry[1] and not paper[entry[0].key]):
                panel.remove()
            elif entry[1]:
                _paper_panel(panel, axis, paper_metric(table, entry[0]), paper[entry[0].key])
            else:
                _metric_panel(panel, axis, points, entry[0])
    _legend(figure, list(dict.fromkeys(point.series for point in points)))
    if any(len(row.runs) > 1 for row in table.rows):
        figure.supxlabel("mean ± std over seeds; dots: the seeds", fontsize=9, color="#555555")
    return save_figure(figure, path)


# What is drawn -----------------------------------------------------------------------------------------------------


def _columns(table: Table, keys: Sequence[str] | None) -> list[MetricInfo]:
    """The metrics to draw. Raises ValueError if one of `keys`, or every metric, is not measured."""
    measured = {c.key: c for c in table.columns if any(c.key in row.cells for row in table.rows)}
    unknown = [key for key in keys or () if key not in measured]
    if unknown or not measured:
        raise ValueError(f"no row has {', '.join(unknown) or 'a metric'}; measured are {', '.join(measured) or 'none'}")
    if keys:
        return [measured[key] for key in keys]
    wanted = [key for key in (table.chart.metrics if table.chart else ()) if key in measured]
    if table.chart and len(wanted) < len(table.chart.metrics):
        missing = ", ".join(key for key in table.chart.metrics if key not in measured)
        logger.warning("chart.metrics: %s not measured, so the chart leaves it out", missing)
    if not all(row.clean for row in table.rows if SECONDS in row.cells):
        wanted = [key for key in wanted if key != SECONDS]
    if wanted:
        return [measured[key] for key in wanted]
    main = next((column.key for column in table.columns if column.distance and column.key in measured), None)
    rest = [key for key in measured if key not in (main, SECONDS)]
    return [measured[key] for key in ([main, *rest] if main else rest)] or list(measured.values())


def _x_key(table: Table) -> str | None:
    """The config key of the horizontal axis; None for the rows themselves."""
    if table.chart and any(table.chart.x in row.setting.config for row in table.rows):
        return table.chart.x
    if table.chart:
        logger.warning("chart.x=%s is a key of no row, so the chart shows the rows", table.chart.x)
    return table.axes[0] if len(table.axes) == 1 else None


def chart_points(table: Table, key: str | None) -> tuple[Axis, list[Point]]:
    """Returns the horizontal axis of a table's chart, and its rows as points.

    Args:
        table: The table.
        key: The config key on the axis; None for the rows themselves.
    """
    chart = table.chart
    if key is None:
        labels = tuple(row.label for row in table.rows)
        axis = Axis(" | ".join(table.headers), "category", labels)
        return axis, [Point(row.label, "", row.cells) for row in table.rows]
    configs = [row.setting.config for row in table.rows]
    raw = [config.get(key) for config in configs]
    scale = _scale(raw, chart.scale if chart else "")
    xs: list[Any] = axis_values(configs, key) if scale == "category" else list(map(float, raw))  # type: ignore[arg-type]
    known = [chart.series] if chart and chart.series else []
    others = [axis for axis in table.axes if axis not in (key, *known)]
    # The remaining columns distinguish rows at the same place.
    while len(set(zip(xs, names := _series(configs, known), strict=True))) < len(xs) and others:
        known.append(others.pop(0))
    header = axis_headers([*table.axes, key])[-1] if key not in table.axes else table.headers[table.axes.index(key)]
    label = (chart.label if chart else "") or header
    values = tuple(dict.fromkeys(xs)) if scale == "category" else tuple(sorted(dict.fromkeys(xs)))
    points = [Point(x, name, row.cells) for x, name, row in zip(xs, names, table.rows, strict=True)]
    return Axis(label, scale, values), points


def _scale(values: Sequence[Any], wanted: str) -> str:
    """The scale of an axis: numbers need numbers, and a logarithm needs positive ones."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    fitting = numeric and (wanted != "log" or all(value > 0 for value in values))
    return (wanted or "linear") if fitting else "category"


def _series(configs: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """The name of the series of each row."""
    headers = axis_headers(keys)
    shown_values = [axis_values(configs, key) for key in keys]
    return [
        ", ".join(
            value if key.endswith("_target_") or key == ARM else f"{header} {value}"
            for key, header, value in zip(keys, headers, values, strict=True)
        )
        for values in (zip(*shown_values, strict=True) if keys else [()] * len(configs))
    ]


def paper_metric(table: Table, column: MetricInfo) -> MetricInfo:
    """Returns the metric of the quoted rows that corresponds to a measured one: FID to the other Fréchet distances."""
    quoted = {key for row, _ in table.paper for key in row.metrics}
    fid = describe("fid")
    return fid if fid and column.key not in quoted and column.key.startswith("fd_") else column


def _paper_points(table: Table, column: MetricInfo, key: str | None) -> list[tuple[float | str, float]]:
    """The quoted values of a metric, in its shown unit, with their places on the horizontal axis."""
    metric = paper_metric(table, column)

    def place(row: PaperRow) -> float | str:
        value = row.match.get(key) if row.x is None and key is not None else row.x
        return row.label if value is None else value if isinstance(value, int | float) else spell(value)

    quoted = [row for row, _ in table.paper if metric.key in row.metrics]
    return [(place(row), row.metrics[metric.key] * metric.scale) for row in quoted]


# Drawing -----------------------------------------------------------------------------------------------------------


def _figure(axis: Axis, across: int, down: int, paper: Sequence[float | str]) -> Figure:
    ours = [_short(str(value)) for value in axis.values] if axis.scale == "category" else []
    theirs = list(dict.fromkeys(_short(str(value)) for value in paper))
    # The labels of many rows need wider panels, and long ones higher panels.
    width = max(PANEL_SIZE[0], 0.45 * max(len(ours), len(theirs)) + 1)
    rotated = [label for labels in (ours, theirs) if _crowded(labels, width) for label in labels]
    height = PANEL_SIZE[1] + 0.05 * max(map(len, rotated), default=0)
    return new_figure(width * across, height * down + 0.3)


def _metric_panel(panel: Axes, axis: Axis, points: Sequence[Point], column: MetricInfo) -> None:
    series = list(dict.fromkeys(point.series for point in points))
    for number, name in enumerate(series):
        color = SERIES_COLORS[number % len(SERIES_COLORS)] if len(series) > 1 else COLOR
        mark = MARKS[number % len(MARKS)] if len(series) > 1 else "D"
        drawn = [(point.x, cell) for point in points if point.series == name and (cell := point.cells.get(column.key))]
        if axis.scale != "category":
            drawn.sort(key=lambda entry: axis.place(entry[0]))
        # Beside each other, since the error bars of several series would hide each other.
        aside = 0.5 * (number - (len(series) - 1) / 2) / len(series) if axis.scale == "category" else 0.0
        places = [axis.place(x) + aside for x, _ in drawn]
        for place, (_, cell) in zip(places, drawn, strict=True):
            values = [value * column.scale for value in cell.values]
            if len(values) > 1:
                # Drawn beside the error bar, which would hide the dots.
                beside = place + 0.15 / len(series) if axis.scale == "category" else place
                faint = FAINT if len(series) == 1 else color
                panel.plot([beside] * len(values), values, "o", color=faint, markersize=5, alpha=0.6, zorder=4)
            spread = cell.std * column.scale if cell.std is not None else None
            panel.errorbar(
                place, cell.mean * column.scale, yerr=spread, fmt=mark, color=color, markersize=5, capsize=4, zorder=3
            )
        if axis.scale != "category" and len(places) > 1:
            means = [cell.mean * column.scale for _, cell in drawn]
            panel.plot(places, means, "-", color=color, linewidth=1, zorder=1)
    _finish(panel, axis, column.header)


def _paper_panel(panel: Axes, ours: Axis, metric: MetricInfo, points: Sequence[tuple[float | str, float]]) -> None:
    """Draws quoted values on an axis of their own, which has the scale of ours if all their places are numbers."""
    scale = _scale([x for x, _ in points], ours.scale) if ours.scale != "category" else "category"
    xs: list[Any] = [x if scale != "category" else str(x) for x, _ in points]
    known = [value for value in ours.values if value in xs] if scale == "category" else []
    values = tuple(dict.fromkeys([*known, *xs])) if scale == "category" else tuple(sorted({*xs, *ours.values}))
    axis = Axis(ours.label, scale, values)
    places = [axis.place(x) for x in xs]
    quoted = [value for _, value in points]
    if scale != "category" and len(places) > 1:
        ordered = sorted(zip(places, quoted, strict=True))
        panel.plot(*zip(*ordered, strict=True), "-", color=PAPER_COLOR, linewidth=1, zorder=1)
    panel.plot(places, quoted, "s", color=PAPER_COLOR, markersize=5, markerfacecolor="none")
    _finish(panel, axis, f"paper: {metric.header}")


def _finish(panel: Axes, axis: Axis, title: str) -> None:
    """Draws the horizontal axis, the title and the grid."""
    if axis.scale == "category":
        labels = [_short(str(value)) for value in axis.values]
        crowded = _crowded(labels, _width(panel))
        panel.set_xticks(
            range(len(labels)), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center",
            rotation_mode="anchor" if crowded else "default", parse_math=False,
        )  # fmt: skip
        panel.set_xlim(-0.5, len(labels) - 0.5)
    else:
        _number_ticks(panel, axis)
    panel.set_xlabel(shown(axis.label), fontsize=9, parse_math=False)
    panel.set_title(title, fontsize=11, parse_math=False)
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.margins(y=0.12)
    tidy_axes(panel)


def _number_ticks(panel: Axes, axis: Axis) -> None:
    """Labels the measured values themselves where they are far enough apart, and leaves out those that are not."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    numbers = [float(value) for value in axis.values]
    labels = [min(f"{number:g}", _scientific(number), key=len) for number in numbers]
    panel.set_xscale(axis.scale)
    position = [math.log(number) for number in numbers] if axis.scale == "log" else numbers
    extent = position[-1] - position[0]
    letter = LETTER / (72 * (_width(panel) - BESIDE_PANEL)) * extent
    kept: list[int] = []
    for index, place in enumerate(position):
        if not kept or place - position[kept[-1]] >= letter * (len(labels[index]) + len(labels[kept[-1]]) + 1) / 2:
            kept.append(index)
    panel.xaxis.set_major_locator(FixedLocator([numbers[index] for index in kept]))
    panel.xaxis.set_major_formatter(FixedFormatter([labels[index] for index in kept]))
    panel.xaxis.set_minor_locator(NullLocator())
    margin = 0.06 * extent or (0.5 if axis.scale == "log" else abs(numbers[0]) or 1.0)
    low, high = position[0] - margin, position[-1] + margin
    panel.set_xlim(*((math.exp(low), math.exp(high)) if axis.scale == "log" else (low, high)))


def _scientific(number: float) -> str:
    """A number as 3e-4."""
    digits, _, exponent = f"{number:e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def _short(label: str) -> str:
    """A label that is not too long: the beginning and the end, in which long names differ."""
    label = shown(label)
    end = WIDEST_LABEL // 3
    return label if len(label) <= WIDEST_LABEL else f"{label[: WIDEST_LABEL - end - 1]}…{label[-end:]}"


def _crowded(labels: Sequence[str], width: float) -> bool:
    """True if the labels fit beside each other in a panel of this width in inches only when they are rotated."""
    place = 72 * (width - BESIDE_PANEL) / max(1, len(labels))
    return len(labels) > 1 and LETTER * max(map(len, labels)) > place


def _width(panel: Axes) -> float:
    """The width in inches that a panel and its labels have in the figure."""
    figure = panel.get_figure(root=True)
    assert figure is not None
    return float(figure.get_figwidth()) / panel.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """Names several series above the panels, without reading their names as formulas."""
    from matplotlib.lines import Line2D

    if len(names) < 2:
        return
    handles = [
        Line2D([], [], color=SERIES_COLORS[n % len(SERIES_COLORS)], marker=MARKS[n % len(MARKS)], linewidth=1)
        for n in range(len(names))
    ]
    columns = 1 if max(map(len, names)) > WIDEST_LABEL else min(len(names), 4)
    # matplotlib would leave out a series whose name begins with an underscore.
    numbers = [str(number) for number in range(len(names))]
    legend = figure.legend(handles, numbers, loc="outside upper left", ncols=columns, fontsize=8, frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(_short(name or MISSING))
        text.set_parse_math(False)
