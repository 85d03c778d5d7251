"""Norms that are computed in float32 under autocast."""

from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """RMS norm with weight and eps 1e-6, computed in float32, because autocast has no rule for it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (..., D) of any float type to (..., D) float32."""
        return super().forward(x.float())
