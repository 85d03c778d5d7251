"""The transformer blocks of a backbone, where something is to be done to each."""

from __future__ import annotations

from torch import nn


def blocks_of(backbone: nn.Module) -> nn.ModuleList:
    """Raises ValueError for a backbone without a list of blocks."""
    blocks = getattr(backbone, "transformer_blocks", None) or getattr(backbone, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"{type(backbone).__name__} has no list of blocks (transformer_blocks or blocks)")
    return blocks
