"""Cost against quality: which settings of a sampler are worth their price."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pixelflow.reporting.canvas import COLOR, FAINT, MARKS, SERIES_COLORS, new_figure, save_figure, tidy_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = string.ascii_uppercase + string.ascii_lowercase


@dataclass(frozen=True)
class Point:
    """A setting and what came of it. series: settings of one colour. cost, quality: less is better."""

    label: str
    series: str
    cost: float
    quality: float
    more: dict[str, float] = field(default_factory=dict)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both, by rising cost; of equal points the first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.quality)):
        if not front or point.quality < front[-1].quality:
            front.append(point)
    return front


def quality_chart(
    points: Sequence[Point], path: Path, *, cost: str, quality: str, front: bool = True, lines: bool = False
) -> Path:
    """Every point; the Pareto front as a line with the letters of `quality_table`. cost, quality: labels of the axes,
    both logarithmic.

    lines: join the points of a series. Raises ValueError without points.
    """
    if not points:
        raise ValueError("there is no setting to draw: was anything evaluated?")
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(7.2, 4.8)
    panel = figure.subplots()
    for number, series in enumerate(dict.fromkeys(p.series for p in points)):
        chosen = sorted((p for p in points if p.series == series), key=lambda p: p.cost)
        panel.plot(
            [p.cost for p in chosen],
            [p.quality for p in chosen],
            MARKS[number % len(MARKS)] + ("-" if lines and len(chosen) > 1 else ""),
            color=SERIES_COLORS[number % len(SERIES_COLORS)],
            markersize=5,
            linewidth=1,
            label=series,
        )
    if front:
        _draw_front(panel, pareto_front(points))
    for axis, scale in ((panel.xaxis, panel.set_xscale), (panel.yaxis, panel.set_yscale)):
        scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(cost)
    panel.set_ylabel(quality)
    panel.legend(fontsize=8, frameon=False)
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
    """Markdown, by rising cost; settings on the Pareto front are marked by the letter that they have in the chart."""
    front = pareto_front(points)
    more = list(dict.fromkeys(key for point in points for key in point.more))
    lines = ["| setting | " + " | ".join([cost, quality, *more]) + " | Pareto |", "|" + " --- |" * (4 + len(more))]
    for point in sorted(points, key=lambda p: p.cost):
        numbers = [point.cost, point.quality, *(point.more[key] for key in more)]
        cells = [point.label, *(f"{number:.4g}" for number in numbers), _letter(front, point)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _letter(front: Sequence[Point], point: Point) -> str:
    return LETTERS[front.index(point) % len(LETTERS)] if point in front else ""
