"""Shows several runs side by side: the settings that differ as text, and their images in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelflow.reporting.figures import image_grid
from pixelflow.reporting.runs import spell
from pixelflow.runs.flat import flatten
from pixelflow.terminal import one_line

ABSENT = "-"
SHORTEST_SIDE = 48
"""Smallest side of an image in the picture, in pixels."""


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns the values of each config for every key, dotted, that is not the same in all of them.

    Examples:
        >>> differences([{"seed": 0, "solver": {"num_steps": 5}}, {"seed": 0, "solver": {"num_steps": 9, "shift": 2}}])
        {'solver.num_steps': ['5', '9'], 'solver.shift': ['-', '2']}
    """
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    rows = {key: [one_line(spell(config[key])) if key in config else ABSENT for config in flat] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def as_columns(rows: Mapping[str, Sequence[str]], header: Sequence[str]) -> str:
    """Returns rows as text in columns, the key first."""
    lines = [list(header), *([key, *values] for key, values in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)  # fmt: skip


def samples_picture(images: Mapping[str, Tensor], labels: Sequence[int], path: Path) -> Path:
    """Draws the images of several runs, each directly below that of the other run with the same noise and class.

    Args:
        images: For each run's name (N, C, H, W) uint8 images; image i of all runs has the same noise and class. Sizes
            and channels may differ.
        labels: The classes of a line, of which there are N / len(labels).
        path: The PNG file to write.

    Returns:
        The path of the file.
    """
    side = max(max(batch.shape[-1] for batch in images.values()), SHORTEST_SIDE)
    enlarged = [
        torch.nn.functional.interpolate(batch.float(), size=(side, side), mode="nearest").byte().expand(-1, 3, -1, -1)
        for batch in images.values()
    ]
    lines = torch.stack([batch.unflatten(0, (-1, len(labels))) for batch in enlarged], dim=1)
    names = list(images) * len(lines)
    columns = [f"class {label}" for label in labels]
    return image_grid(lines.flatten(0, 2), path, columns=len(labels), row_labels=names, column_labels=columns)
