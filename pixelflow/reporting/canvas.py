"""Helpers for drawing with matplotlib, shared by all charts.

matplotlib is imported when a figure is drawn, and without pyplot: no display is needed, and no global state changes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pixelflow.files import write_aside
from pixelflow.terminal import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
LONGEST_LABEL = 100
"""Characters of a label; a figure would grow with a longer one."""
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


def shown(text: str) -> str:
    """Returns a text as a label: in one line, with visible control characters, and cut if it is too long."""
    text = one_line(text)
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def label_axes(panel: Axes, x: str, y: str) -> None:
    """Labels both axes, without reading the texts as formulas."""
    panel.set_xlabel(shown(x), parse_math=False)
    panel.set_ylabel(shown(y), parse_math=False)


def draw_legend(panel: Axes, names: Iterable[str], *, fontsize: float = 8) -> None:
    """Draws a legend of the panel's first lines, without reading their names as formulas."""
    names = list(names)
    # matplotlib would leave out a line whose name begins with an underscore.
    legend = panel.legend(panel.lines[: len(names)], map(str, range(len(names))), fontsize=fontsize, frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(shown(name))
        text.set_parse_math(False)


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG and returns its path."""
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # a matplotlibrc may send all texts to LaTeX, which would run their commands
        text.set_usetex(False)
    stream = io.BytesIO()
    with matplotlib.rc_context({"text.usetex": False}):
        figure.savefig(stream, format="png")
    return write_aside(path, stream.getvalue())
