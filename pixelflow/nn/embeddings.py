"""Scalars and labels as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SINUSOID_DIM = 256


def sinusoid(values: Tensor, *, max_period: float = 10000.0) -> Tensor:
    """(B,) -> (B, 256) float32: [cos, sin] of value * max_period^(-k/127), k = 0..127."""
    half = SINUSOID_DIM // 2
    k = torch.arange(half, device=values.device, dtype=torch.float32)
    angles = values.float()[:, None] * torch.exp(-math.log(max_period) * k / (half - 1))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ScalarEmbedder(nn.Module):
    """Sinusoid, linear, SiLU, linear: (B,) -> (B, D)."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_DIM, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(values))))


class LabelEmbedder(nn.Module):
    """A row per class and a last one for the null label: (B,) int64 -> (B, D)."""

    def __init__(self, *, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)
