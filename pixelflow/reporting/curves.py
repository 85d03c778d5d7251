"""The distance as a function of one setting, from which a guidance scale is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pixelflow.metrics.catalogue import described
from pixelflow.reporting.canvas import MARKS, SERIES_COLORS, draw_legend, label_axes, new_figure, save_figure, tidy_axes
from pixelflow.reporting.runs import Run


def guidance_curve(runs: Sequence[Run], path: Path, *, key: str = "guidance.scale") -> Path:
    """Draws the main metric over the values of one config key.

    There is one line for each combination of the other settings. A ring marks the lowest distance.

    Args:
        runs: Runs with flat configs; those without a value of the key or without a distance are left out.
        path: The PNG file to write.
        key: The config key on the horizontal axis.

    Returns:
        The path of the file.

    Raises:
        ValueError: No run has both a value of the key and a distance.
    """
    measured = described(name for run in runs for name in run.metrics)
    shown = next((metric for metric in measured if metric.distance), None)
    metric = shown.key if shown else ""
    lines: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        value = run.config.get(key)
        if isinstance(value, int | float) and math.isfinite(run.metrics.get(metric, math.nan)):
            others = " ".join(f"{k.split('.')[-1]}={v}" for k, v in run.config.items() if k != key)
            lines.setdefault(others, []).append((float(value), run.metrics[metric]))
    if not lines:
        raise ValueError(f"no run has both {key} and a distance, so there is no curve")
    figure = new_figure(6.4, 4.4)
    panel = figure.subplots()
    for number, points in enumerate(lines.values()):
        points.sort()
        color, mark = SERIES_COLORS[number % len(SERIES_COLORS)], MARKS[number % len(MARKS)]
        panel.plot(*zip(*points, strict=True), f"{mark}-", color=color, markersize=4, linewidth=1)
    best = min((point for points in lines.values() for point in points), key=lambda point: point[1])
    panel.plot(*best, "o", markersize=13, markerfacecolor="none", markeredgecolor="black")
    panel.annotate(f"{best[1]:.4g}", best, xytext=(9, 7), textcoords="offset points", fontsize=8)
    label_axes(panel, key, shown.label if shown else "")
    if len(lines) > 1:
        draw_legend(panel, lines, fontsize=7)
    tidy_axes(panel)
    return save_figure(figure, path)
