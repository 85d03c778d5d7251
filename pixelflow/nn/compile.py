"""Compiled transformer blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pixelflow.nn.blocks import blocks_of

SHAPES = 64
"""How many shapes a block may be compiled for: resolutions x guided or not x whole or last batch."""


def compile_blocks(backbone: nn.Module, *, resolutions: Sequence[int], device: torch.device) -> None:
    """Compile every transformer block in place; norms, modulation, gates and rotations fuse into few kernels.

    Shapes are fixed per resolution, so nothing is compiled again once every shape has been seen. resolutions: of the
    stages, in pixels. Raises ValueError for a backbone without a list of blocks.
    """
    blocks = blocks_of(backbone)
    # Compiled code is tied to the tables that exist: a table that came later would compile everything again.
    if hasattr(backbone, "rope"):
        for resolution in resolutions:
            side = resolution // int(backbone.patch_size)  # type: ignore[arg-type]
            backbone.rope(side, side, device)  # type: ignore[operator]
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    for block in blocks:
        block.compile(dynamic=False)
