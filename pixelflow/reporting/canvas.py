"""Helpers for drawing with matplotlib, shared by all charts.

matplotlib is imported when a figure is drawn, and without pyplot: no display is needed, and no global state changes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from pixelflow.files import write_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
COLOR, FAINT = "#1f4e79", "#8fb1d1"
MARKS = "osD^vP*X"
SERIES_COLORS = ("#1f4e79", "#c0504d", "#6a994e", "#8064a2", "#d98e04", "#4a8f94", "#7f7f7f", "#a05195")


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure. The width and height are in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.08)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def tidy_axes(panel: Axes) -> None:
    """Removes the upper and right border and draws a faint horizontal grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=9)


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG and returns its path."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return write_aside(path, stream.getvalue())
