"""Cost and quality of sampler settings, and the Pareto front of the two."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pixelflow.reporting.canvas import (
    COLOR,
    FAINT,
    MARKS,
    SERIES_COLORS,
    draw_legend,
    label_axes,
    new_figure,
    save_figure,
    tidy_axes,
)
from pixelflow.reporting.escaping import markdown_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = string.ascii_uppercase + string.ascii_lowercase


@dataclass(frozen=True)
class Point:
    """The result of one setting.

    Args:
        label: The setting as text.
        series: Name of the series, whose points share a colour.
        cost: The cost; lower is better.
        quality: The quality; lower is better.
        more: Further numbers, by the header of their column.
    """

    label: str
    series: str
    cost: float
    quality: float
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Repetitions of one setting with other random numbers.

    Args:
        cost: The cost.
        mean: Mean of the quality.
        deviation: Standard deviation of the quality.
    """

    cost: float
    mean: float
    deviation: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Returns the points that no other point dominates, by increasing cost; of equal points only the first.

    A point with a number that is not finite is left out.
    """
    front: list[Point] = []
    known = [point for point in points if math.isfinite(point.cost) and math.isfinite(point.quality)]
    for point in sorted(known, key=lambda p: (p.cost, p.quality)):
        if not front or point.quality < front[-1].quality:
            front.append(point)
    return front


def quality_chart(
    points: Sequence[Point],
    path: Path,
    *,
    cost: str,
    quality: str,
    front: bool = True,
    lines: bool = False,
    spreads: Sequence[Spread] = (),
) -> Path:
    """Draws all points on logarithmic axes, and the Pareto front with the letters of `quality_table`.

    Args:
        points: The settings.
        path: The PNG file to write.
        cost: Label of the horizontal axis.
        quality: Label of the vertical axis.
        front: Whether to draw the Pareto front.
        lines: Whether to connect the points of a series.
        spreads: Repeated settings; they are drawn over the points, which are then pale.

    Returns:
        The path of the file.

    Raises:
        ValueError: There are no points.
    """
    if not points:
        raise ValueError("there is no setting to draw: was anything evaluated?")
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(7.2, 4.8)
    panel = figure.subplots()
    names = list(dict.fromkeys(p.series for p in points))
    for number, series in enumerate(names):
        chosen = sorted((p for p in points if p.series == series), key=lambda p: p.cost)
        panel.plot(
            [p.cost for p in chosen],
            [p.quality for p in chosen],
            MARKS[number % len(MARKS)] + ("-" if lines and len(chosen) > 1 else ""),
            color=SERIES_COLORS[number % len(SERIES_COLORS)],
            markersize=5,
            linewidth=1,
            alpha=0.35 if spreads else 1.0,
        )
    if spreads:
        panel.errorbar(
            [s.cost for s in spreads],
            [s.mean for s in spreads],
            [s.deviation for s in spreads],
            fmt="k_",
            capsize=3,
            linewidth=1.2,
            zorder=3,
        )
        names.append("repeated: mean and standard deviation")
    if front:
        _draw_front(panel, pareto_front(points))
    for axis, scale in ((panel.xaxis, panel.set_xscale), (panel.yaxis, panel.set_yscale)):
        scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    label_axes(panel, cost, quality)
    draw_legend(panel, names)
    tidy_axes(panel)
    return save_figure(figure, path)


def _draw_front(panel: Axes, front: Sequence[Point]) -> None:
    panel.step([p.cost for p in front], [p.quality for p in front], where="post", color=FAINT, zorder=0)
    for point in front:
        panel.annotate(
            _letter(front, point),
            (point.cost, point.quality),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=9,
            color=COLOR,
        )


def quality_table(points: Sequence[Point], *, cost: str, quality: str) -> str:
    """Returns a Markdown table by increasing cost; letters mark the points of the Pareto front, as in the chart."""
    front = pareto_front(points)
    more = list(dict.fromkeys(key for point in points for key in point.more))
    lines = ["| setting | " + " | ".join([cost, quality, *more]) + " | Pareto |", "|" + " --- |" * (4 + len(more))]
    for point in sorted(points, key=lambda p: p.cost):
        numbers = [point.cost, point.quality, *(point.more[key] for key in more)]
        cells = [markdown_text(point.label), *(f"{number:.4g}" for number in numbers), _letter(front, point)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def letters(points: Sequence[Point]) -> list[str]:
    """Returns the letter of each point in chart and table, empty for one that is not on the Pareto front."""
    front = pareto_front(points)
    return [_letter(front, point) for point in points]


def _letter(front: Sequence[Point], point: Point) -> str:
    return LETTERS[front.index(point) % len(LETTERS)] if point in front else ""
