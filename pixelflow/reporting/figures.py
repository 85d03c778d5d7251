"""Figures as PNG: loss curves, and grids of samples."""

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
from pixelflow.reporting.canvas import draw_legend, label_axes, new_figure, save_figure, shown, tidy_axes

if TYPE_CHECKING:
    pass

GREY = (200, 200, 200)


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
    images: Tensor,
    path: Path,
    *,
    columns: int,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Path:
    """Writes images as a grid, filled line by line, with one pixel between the images.

    Args:
        images: (N, C, H, W) uint8 with 1 or 3 channels.
        path: The PNG file to write.
        columns: Images per line.
        row_labels: One label for each line, drawn to its left.
        column_labels: One label for each column, drawn above it; it may have several lines.
        scale: Integer factor of nearest-neighbour enlargement.

    Returns:
        The path of the file.

    Raises:
        ValueError: The images have another form, a number is below 1, or there is not one label per line.
    """
    picture = grid_picture(images, columns=columns, row_labels=row_labels, column_labels=column_labels, scale=scale)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return write_aside(path, stream.getvalue())


def grid_picture(
    images: Tensor,
    *,
    columns: int,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """Returns the picture that `image_grid` writes; the arguments are the same."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or str(images.dtype) != "torch.uint8" or not len(images):
        raise ValueError(f"images must be (N, 1 or 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
    if columns < 1 or scale < 1:
        raise ValueError(f"columns={columns} and scale={scale} must be at least 1")
    count, _, height, width = images.shape
    lines = math.ceil(count / columns)
    if row_labels is not None and len(row_labels) != lines:
        raise ValueError(f"row_labels has {len(row_labels)} entries, but {count} images make {lines} lines")
    if column_labels is not None and len(column_labels) != columns:
        raise ValueError(f"column_labels has {len(column_labels)} entries for {columns} columns")
    height, width = height * scale, width * scale
    tiles = images.detach().cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    canvas = np.full((lines * (height + 1) - 1, min(columns, count) * (width + 1) - 1, 3), GREY, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = tile
    canvas[-height:, left + width :] = 255
    picture = Image.fromarray(canvas)
    left = 0
    if row_labels is not None:
        labelled = _with_labels(picture, row_labels, height)
        left, picture = labelled.width - picture.width, labelled
    if column_labels is not None:
        picture = _with_header(picture, column_labels, width, left)
    return picture


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


def _with_header(picture: Image.Image, labels: Sequence[str], width: int, left: int) -> Image.Image:
    """Adds a white margin above, with a label over each column, the first of which begins at `left`."""
    font = ImageFont.load_default(size=11)
    lines = max(label.count("\n") for label in labels) + 1
    margin = 14 * lines + 4
    last = left + (len(labels) - 1) * (width + 1)
    widest = max(font.getlength(line) for label in labels for line in label.split("\n"))
    result = Image.new("RGB", (max(picture.width, math.ceil(last + widest)), margin + picture.height), "white")
    result.paste(picture, (0, margin))
    draw = ImageDraw.Draw(result)
    for column, label in enumerate(labels):
        draw.multiline_text((left + column * (width + 1), 2), label, fill="black", font=font, spacing=2)
    return result
