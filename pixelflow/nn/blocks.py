"""The list of blocks of a backbone, for features that treat each block (compilation, checkpointing, FSDP)."""

from __future__ import annotations

from torch import nn


def blocks_of(backbone: nn.Module) -> nn.ModuleList:
    """Returns the backbone's `transformer_blocks` or `blocks`.

    Raises:
        ValueError: The backbone has neither attribute as an `nn.ModuleList`.
    """
    blocks = getattr(backbone, "transformer_blocks", None) or getattr(backbone, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"{type(backbone).__name__} has no list of blocks (transformer_blocks or blocks)")
    return blocks


LARGEST_DEPTH = 10_000
LARGEST_WIDTH = 131_072
"""Limits of the sizes of a transformer: a larger number is refused instead of computed for hours."""
