"""Scalars and labels as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SINUSOID_DIM = 256


def sinusoid(values: Tensor, *, max_period: float = 10000.0, intervals: int = SINUSOID_DIM // 2 - 1) -> Tensor:
    """(B,) -> (B, 256) float32: [cos, sin] of value * max_period^(-k/intervals), k = 0..127."""
    k = torch.arange(SINUSOID_DIM // 2, device=values.device, dtype=torch.float32)
    angles = values.float()[:, None] * torch.exp(-math.log(max_period) * k / intervals)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ScalarEmbedder(nn.Module):
    """Sinusoid, linear, SiLU, linear: (B,) -> (B, D)."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_DIM, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(values))))


class TimeEmbedder(nn.Module):
    """The same with frequencies max_period^(-k/128), and the module names of JiT: (B,) -> (B, D)."""

    def __init__(self, *, width: int, max_period: float = 10000.0) -> None:
        super().__init__()
        self.max_period = max_period
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_DIM, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: Tensor) -> Tensor:
        return self.mlp(sinusoid(values, max_period=self.max_period, intervals=SINUSOID_DIM // 2))


class LabelEmbedder(nn.Module):
    """A row per class and a last one for the null label: (B,) int64 -> (B, D)."""

    def __init__(self, *, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


def grid_sincos(height: int, width: int, dim: int) -> Tensor:
    """(height * width, dim) float32, fixed: the first half of dim from the column index, the second from the row's.

    Each half is [sin, cos] of index * 10000^(-k / (dim/4)), k = 0..dim/4-1 (MAE's; JiT's `pos_embed`).
    """
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [torch.outer(index.flatten().double(), frequency) for index in (cols, rows)]
    return torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1).float()
