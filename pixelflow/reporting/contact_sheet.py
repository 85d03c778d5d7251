"""A contact sheet of training data: some images of each class, or images beside their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pixelflow.reporting.figures import image_grid
from pixelflow.types import Batch, Condition

CLASS_ROWS, CLASS_COLUMNS = 10, 8
CAPTION_ROWS, CAPTION_LENGTH = 12, 90
IMAGES = 4 * CLASS_ROWS * CLASS_COLUMNS
"""Number of images that usually suffice to fill a sheet."""


def contact_sheet(batches: Sequence[Batch], class_names: Sequence[str], path: Path) -> Path:
    """Draw a row of images for each of the first classes, or an image and its caption in each row.

    Args:
        batches: The images, in [-1, 1].
        class_names: Names of the classes, or an empty sequence.
        path: The PNG to write.

    Returns:
        `path`.
    """
    x = torch.cat([batch.x for batch in batches]).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    condition = Condition.cat([batch.condition for batch in batches])
    if condition.caption is not None:
        rows = [text[:CAPTION_LENGTH] for text in condition.caption[:CAPTION_ROWS]]
        return image_grid(x[: len(rows)], path, columns=1, row_labels=rows)
    images, labels = [], []
    for label in condition.class_label.unique().tolist()[:CLASS_ROWS]:
        row = x[condition.class_label == label][:CLASS_COLUMNS]
        blank = torch.full((CLASS_COLUMNS - len(row), *x.shape[1:]), 255, dtype=torch.uint8)
        images.append(torch.cat([row, blank]))
        labels.append(f"{label} {class_names[label]}" if label < len(class_names) else str(label))
    return image_grid(torch.cat(images), path, columns=CLASS_COLUMNS, row_labels=labels)
