"""Fewer blocks per evaluation: what the middle of the network adds changes slowly along a trajectory.

In the spirit of DeepCache (arXiv 2312.00858) and Delta-DiT (arXiv 2406.01125), in the last stage, where most of the
time goes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pixelflow.types import BackboneOutput, Condition


class CachedSpan(nn.Module):
    """Consecutive blocks as one; with `reuse`, what they added last time is added again instead."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.reuse = False
        self._added: Tensor | None = None

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        if self.reuse and self._added is not None and self._added.shape == x.shape:
            return x + self._added
        h = x
        for block in self.blocks:
            h = block(h, *args)
        self._added = h - x
        return h

    def forget(self) -> None:
        self._added = None


class FeatureCache(nn.Module):
    """A PixelFlow backbone whose middle half of blocks is computed at every `every`-th evaluation only.

    It shares the weights of `backbone` and leaves it as it is. resolution: of the last stage, in pixels; others are
    computed in full. A call with another number of images is computed in full, too. `start_trajectory` forgets
    what the trajectory before left.
    Raises ValueError for every < 2, or a backbone that is not a plain sequence of at least four transformer_blocks.
    """

    def __init__(self, backbone: nn.Module, *, every: int, resolution: int) -> None:
        super().__init__()
        blocks = list(getattr(backbone, "transformer_blocks", ()))
        if len(blocks) < 4:
            raise ValueError("feature caching needs a PixelFlow backbone with at least four blocks")
        if every < 2:
            raise ValueError(f"every={every} must be at least 2")
        first, last = len(blocks) // 4, len(blocks) - len(blocks) // 4
        self.span = CachedSpan(blocks[first:last])
        self.backbone = copy.copy(backbone)
        self.backbone._modules = {**backbone._modules}
        self.backbone.transformer_blocks = nn.ModuleList([*blocks[:first], self.span, *blocks[last:]])
        self.every, self.resolution, self._calls = every, resolution, 0

    @property
    def patch_size(self) -> int:
        return self.backbone.patch_size  # type: ignore[return-value]

    @property
    def fixed_resolution(self) -> int | None:
        return self.backbone.fixed_resolution  # type: ignore[return-value]

    def start_trajectory(self) -> None:
        self._calls = 0
        self.span.forget()

    def forward(
        self, x_t: Tensor, timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        """See `Backbone`; batches of one resolution only."""
        self.span.reuse = x_t.shape[-1] == self.resolution and self._calls % self.every > 0
        self._calls += 1
        return self.backbone(x_t, timestep, condition, features)
