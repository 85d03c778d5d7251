"""Norms that stay in float32 under autocast."""

from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """RMS norm with weight, eps 1e-6, computed in float32: autocast has no rule for it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) of any float type -> (..., D) float32."""
        return super().forward(x.float())
