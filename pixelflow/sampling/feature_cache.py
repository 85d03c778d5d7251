"""Caches what the middle blocks of a network add to their input, which changes slowly along a trajectory.

The idea is that of DeepCache (arXiv 2312.00858) and Delta-DiT (arXiv 2406.01125). It is applied in the last stage,
which takes most of the time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pixelflow.types import BackboneOutput, Condition


class CachedSpan(nn.Module):
    """Consecutive blocks as one block. If `reuse` is set, it adds the difference of the previous call instead.

    Args:
        blocks: The blocks.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.reuse = False
        self._added: Tensor | None = None

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Returns the tokens after the blocks, of the shape of `x`; `args` are passed to each block."""
        if self.reuse and self._added is not None and self._added.shape == x.shape:
            return x + self._added
        h = x
        for block in self.blocks:
            h = block(h, *args)
        self._added = h - x
        return h

    def forget(self) -> None:
        """Discards the difference of the previous call."""
        self._added = None


class FeatureCache(nn.Module):
    """A PixelFlow backbone whose middle half of blocks is computed at every `every`-th evaluation only.

    It shares the weights of `backbone`, which it does not change. A call with another number of images than the
    previous one computes all blocks.

    Args:
        backbone: A backbone with a sequence `transformer_blocks`.
        every: Evaluations between two that compute the middle blocks, at least 2.
        resolution: Side of the last stage's images in pixels; other resolutions compute all blocks.

    Raises:
        ValueError: `every` is below 2, or the backbone has fewer than four blocks.
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
        """Patch size of the backbone."""
        return self.backbone.patch_size  # type: ignore[return-value]

    @property
    def fixed_resolution(self) -> int | None:
        """The only resolution that the backbone supports, or None."""
        return self.backbone.fixed_resolution  # type: ignore[return-value]

    def start_trajectory(self) -> None:
        """Discards the features of the previous trajectory."""
        self._calls = 0
        self.span.forget()

    def forward(
        self, x_t: Tensor, timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        """See `Backbone`; batches of one resolution only."""
        self.span.reuse = x_t.shape[-1] == self.resolution and self._calls % self.every > 0
        self._calls += 1
        return self.backbone(x_t, timestep, condition, features)
