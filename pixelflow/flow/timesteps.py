"""Time: how training draws tau, and which taus a sampler visits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Grid = Literal["reference", "uniform"]


class UniformTimesteps:
    """tau = i / num_train_timesteps with i uniform in 0..num_train_timesteps-1, as PixelFlow's release trains."""

    def __init__(self, *, num_train_timesteps: int = 1000) -> None:
        self.num_train_timesteps = num_train_timesteps

    def __call__(self, uniform: Tensor) -> Tensor:
        """(B,) uniform in [0, 1) -> (B,) tau, float64."""
        return (uniform * self.num_train_timesteps).floor() / self.num_train_timesteps


def time_grid(num_steps: int, *, grid: Grid = "reference", shift: float = 1.0) -> Tensor:
    """The taus of one stage: (num_steps + 1,) float64, from 0 to 1.

    reference: linspace(0, 0.999, N) and then 1, so the last step is 0.001 short (PixelFlow's release).
    uniform: N equal steps. A shift above 1 spends more steps near the noise: tau / (shift + (1 - shift) * tau).
    """
    if grid == "reference":
        tau = torch.linspace(0, 0.999, num_steps, dtype=torch.float64)
    else:
        tau = torch.arange(num_steps, dtype=torch.float64) / num_steps
    tau = tau / (shift + (1 - shift) * tau)
    return torch.cat([tau, torch.ones(1, dtype=torch.float64)])
