"""Figures as PNG: the metrics of a table with their spread, loss curves, and grids of samples."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pixelflow.files import write_aside
from pixelflow.metrics.catalogue import MetricInfo
from pixelflow.reporting.canvas import COLOR, FAINT, draw_legend, label_axes, new_figure, save_figure, shown, tidy_axes
from pixelflow.reporting.rows import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_SIZE = (3.4, 2.9)
PANELS_PER_LINE = 3
LONG_LABEL = 6
"""Labels of several rows with more characters than this would overlap and are rotated."""
GREY = (200, 200, 200)


# Metrics -----------------------------------------------------------------------------------------------------------


def metric_chart(table: Table, path: Path, *, keys: Sequence[str] | None = None) -> Path:
    """Draws one panel per metric, with the mean and standard deviation of each row and a dot for each seed.

    Quoted rows are not drawn.

    Args:
        table: The table.
        path: The PNG file to write.
        keys: Metrics to draw, in this order; by default all that were measured.

    Returns:
        The path of the file.

    Raises:
        ValueError: No row has one of the metrics.
    """
    measured = {c.key: c for c in table.columns if any(c.key in row.cells for row in table.rows)}
    unknown = [key for key in keys or () if key not in measured]
    if unknown or not measured:
        raise ValueError(f"no row has {', '.join(unknown) or 'a metric'}; measured are {', '.join(measured) or 'none'}")
    columns = [measured[key] for key in keys] if keys else list(measured.values())
    across = min(len(columns), PANELS_PER_LINE)
    down = math.ceil(len(columns) / across)
    # The labels of many rows need wider panels.
    width = max(PANEL_SIZE[0], 0.45 * len(table.rows) + 1)
    longest = max(len(shown(row.label)) for row in table.rows)
    height = PANEL_SIZE[1] + (0.04 * longest if _crowded(table) else 0)
    figure = new_figure(width * across, height * down)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel, column in zip(panels, columns, strict=False):
        _metric_panel(panel, table, column)
    for panel in panels[len(columns) :]:
        panel.remove()
    if any(len(row.runs) > 1 for row in table.rows):
        figure.supxlabel("mean ± std over seeds; dots: the seeds", fontsize=9, color="#555555")
    return save_figure(figure, path)


def _metric_panel(panel: Axes, table: Table, column: MetricInfo) -> None:
    for position, row in enumerate(table.rows):
        cell = row.cells.get(column.key)
        if cell is None:
            continue
        values = [value * column.scale for value in cell.values]
        if len(values) > 1:  # Drawn beside the error bar, which would hide the dots.
            panel.plot([position + 0.15] * len(values), values, "o", color=FAINT, markersize=5, alpha=0.8)
        spread = cell.std * column.scale if cell.std is not None else None
        panel.errorbar(position, cell.mean * column.scale, yerr=spread, fmt="D", color=COLOR, markersize=5, capsize=4)
    labels = [shown(row.label) for row in table.rows]
    crowded = _crowded(table)
    panel.set_xticks(
        range(len(labels)), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else "default", parse_math=False,
    )  # fmt: skip
    panel.set_xlim(-0.5, len(labels) - 0.5)
    panel.set_xlabel(shown(" | ".join(table.headers)), fontsize=9, parse_math=False)
    panel.set_title(column.header, fontsize=11, parse_math=False)
    panel.ticklabel_format(axis="y", useOffset=False)
    tidy_axes(panel)


def _crowded(table: Table) -> bool:
    """True if the labels of the rows fit only when they are rotated."""
    return len(table.rows) > 1 and max(len(row.label) for row in table.rows) > LONG_LABEL


# Loss curves -------------------------------------------------------------------------------------------------------


def loss_curve(histories: Mapping[str, Sequence[tuple[int, float]]], path: Path, *, label: str = "loss") -> Path:
    """Draws the loss of each run over the training steps.

    The vertical axis is logarithmic if all values are positive. Values that are not finite leave a gap.

    Args:
        histories: Pairs of step and value for each run's name.
        path: The PNG file to write.
        label: Label of the vertical axis.

    Returns:
        The path of the file.

    Raises:
        ValueError: No value is finite.
    """
    finite = [value for history in histories.values() for _, value in history if math.isfinite(value)]
    if not finite:
        raise ValueError(f"no finite {label} to draw in {len(histories)} histories; was anything logged?")
    figure = new_figure(6.4, 3.8)
    panel = figure.subplots()
    for history in histories.values():
        steps = [step for step, _ in history]
        values = [value if math.isfinite(value) else math.nan for _, value in history]
        panel.plot(steps, values, linewidth=1.3, marker="o" if len(steps) == 1 else "")
    if min(finite) > 0:
        panel.set_yscale("log")
    label_axes(panel, "step", label)
    if len(histories) > 1:
        draw_legend(panel, histories)
    tidy_axes(panel)
    return save_figure(figure, path)


# Images ------------------------------------------------------------------------------------------------------------


def image_grid(
    images: Tensor, path: Path, *, columns: int, row_labels: Sequence[str] | None = None, scale: int = 1
) -> Path:
    """Writes images as a grid, filled line by line, with one pixel between the images.

    Args:
        images: (N, C, H, W) uint8 with 1 or 3 channels.
        path: The PNG file to write.
        columns: Images per line.
        row_labels: One label for each line, drawn to its left.
        scale: Integer factor of nearest-neighbour enlargement.

    Returns:
        The path of the file.

    Raises:
        ValueError: The images have another form, a number is below 1, or there is not one label per line.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or str(images.dtype) != "torch.uint8" or not len(images):
        raise ValueError(f"images must be (N, 1 or 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
    if columns < 1 or scale < 1:
        raise ValueError(f"columns={columns} and scale={scale} must be at least 1")
    count, _, height, width = images.shape
    lines = math.ceil(count / columns)
    if row_labels is not None and len(row_labels) != lines:
        raise ValueError(f"row_labels has {len(row_labels)} entries, but {count} images make {lines} lines")
    height, width = height * scale, width * scale
    tiles = images.detach().cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    canvas = np.full((lines * (height + 1) - 1, min(columns, count) * (width + 1) - 1, 3), GREY, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = tile
    canvas[-height:, left + width :] = 255
    picture = Image.fromarray(canvas)
    if row_labels is not None:
        picture = _with_labels(picture, row_labels, height)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return write_aside(path, stream.getvalue())


def _with_labels(picture: Image.Image, labels: Sequence[str], height: int) -> Image.Image:
    """Adds a white margin on the left, with a label at the middle of each line."""
    labels = [shown(label) for label in labels]
    font = ImageFont.load_default(size=max(8, min(16, height)))
    margin = math.ceil(max(font.getlength(label) for label in labels)) + 8
    result = Image.new("RGB", (margin + picture.width, picture.height), "white")
    result.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(result)
    for line, label in enumerate(labels):
        draw.text((margin - 5, line * (height + 1) + height / 2), label, fill="black", font=font, anchor="rm")
    return result
