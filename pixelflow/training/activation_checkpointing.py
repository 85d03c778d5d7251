"""Activation checkpointing: activations are recomputed in the backward pass instead of kept in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pixelflow.nn.blocks import blocks_of
from pixelflow.training.settings import Checkpointing

_ATEN = torch.ops.aten
KEPT_OPS = {
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
}
"""Operations whose results selective checkpointing keeps: matrix products, which are most of the computation."""


def _policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = op in KEPT_OPS or "flash_attn" in str(op) or "varlen" in str(op)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_blocks(backbone: nn.Module, mode: Checkpointing) -> None:
    """Changes each transformer block of a backbone in place.

    Args:
        backbone: A backbone with a list of blocks.
        mode: Activations that are kept: all ("none"), the results of matrix products ("selective"), or the inputs of
            the blocks ("full").
    """
    if mode == "none":
        return
    selective = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)} if mode == "selective" else {}
    for block in blocks_of(backbone):
        block.forward = Recomputed(block.forward, selective)


class Recomputed:
    """The forward pass of a block under checkpointing. It is an object, so that copies of the model copy it."""

    def __init__(self, forward: Callable[..., Any], options: dict[str, Any]) -> None:
        self.forward, self.options = forward, options

    def __call__(self, *arguments: Any) -> Any:
        """Returns the result of the block's forward pass."""
        return checkpoint(self.forward, *arguments, use_reentrant=False, **self.options)
