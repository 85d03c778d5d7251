"""Compiled transformer blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pixelflow.nn.blocks import blocks_of
from pixelflow.nn.rope import Rope2D

SHAPES = 64
"""Number of shapes that a block may be compiled for: resolutions x guided or not x whole or last batch."""


def compile_blocks(backbone: nn.Module, *, resolutions: Sequence[int], device: torch.device) -> None:
    """Compiles every block in place, so that norms, modulation, gates and rotations fuse into few kernels.

    Shapes are fixed per resolution, so nothing is compiled again once every shape has occurred.

    Args:
        backbone: A backbone with a list of blocks (see `blocks_of`).
        resolutions: Image sides of the stages in pixels.
        device: The device of the backbone.

    Raises:
        ValueError: The backbone has no list of blocks.
    """
    blocks = blocks_of(backbone)
    # Compiled code depends on the tables that exist: a table made later would compile everything again.
    if isinstance(getattr(backbone, "rope", None), Rope2D):
        for resolution in resolutions:
            side = resolution // int(backbone.patch_size)  # type: ignore[arg-type]
            backbone.rope(side, side, device)  # type: ignore[operator]
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    for block in blocks:
        block.compile(dynamic=False)
