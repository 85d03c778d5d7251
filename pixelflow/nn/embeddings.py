"""Embeddings of scalars, labels and positions.

Shape legend: B images, D model width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SINUSOID_DIM = 256


def sinusoid(values: Tensor, *, max_period: float = 10000.0, intervals: int = SINUSOID_DIM // 2 - 1) -> Tensor:
    """Maps (B,) to (B, 256) float32: [cos, sin] of value * max_period^(-k/intervals), k = 0..127."""
    k = torch.arange(SINUSOID_DIM // 2, device=values.device, dtype=torch.float32)
    angles = values.float()[:, None] * torch.exp(-math.log(max_period) * k / intervals)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ScalarEmbedder(nn.Module):
    """Sinusoid, linear, SiLU, linear.

    Args:
        width: D.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_DIM, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        """Maps scalars (B,) to (B, D)."""
        return self.linear_2(F.silu(self.linear_1(sinusoid(values))))


class TimeEmbedder(nn.Module):
    """A `ScalarEmbedder` with frequencies max_period^(-k/128) and the module names of JiT.

    Args:
        width: D.
        max_period: Longest period of the sinusoid, over 2 pi.
    """

    def __init__(self, *, width: int, max_period: float = 10000.0) -> None:
        super().__init__()
        self.max_period = max_period
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_DIM, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: Tensor) -> Tensor:
        """Maps scalars (B,) to (B, D)."""
        return self.mlp(sinusoid(values, max_period=self.max_period, intervals=SINUSOID_DIM // 2))


class LabelEmbedder(nn.Module):
    """A table with one row per class and a last row for the null label.

    Args:
        num_classes: Number of classes; it is also the null label.
        width: D.
    """

    def __init__(self, *, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Maps labels (B,) int64 to (B, D)."""
        return self.embedding_table(labels)


def grid_sincos(height: int, width: int, dim: int) -> Tensor:
    """Returns the fixed position table of MAE and JiT, (height * width, dim) float32.

    The first half of dim depends on the column index, the second on the row index. Each half is [sin, cos] of
    index * 10000^(-k / (dim/4)), k = 0..dim/4-1.
    """
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [torch.outer(index.flatten().double(), frequency) for index in (cols, rows)]
    return torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1).float()
