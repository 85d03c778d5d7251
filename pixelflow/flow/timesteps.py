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


class LogitNormalTimesteps:
    """tau = sigmoid(mean + std * z), z normal (Esser et al. 2024), shifted and clamped: at any stage, its tau.

    shift: above 1 draws more times near the noise, see `shifted`. low, high: tau is clamped to them.
    Raises ValueError for std or shift not above 0, or low and high that are no interval in [0, 1].
    """

    def __init__(
        self, *, mean: float = -0.8, std: float = 0.8, shift: float = 1.0, low: float = 0.0, high: float = 1.0
    ) -> None:
        for name, value in (("std", std), ("shift", shift)):
            if value <= 0:
                raise ValueError(f"{name}={value} must be above 0")
        if not 0 <= low < high <= 1:
            raise ValueError(f"low={low}, high={high} must satisfy 0 <= low < high <= 1")
        self.mean, self.std, self.shift, self.low, self.high = mean, std, shift, low, high

    def __call__(self, uniform: Tensor) -> Tensor:
        """(B,) uniform in [0, 1) -> (B,) tau, float64, rising with `uniform`."""
        tau = torch.sigmoid(self.mean + self.std * torch.special.ndtri(uniform.double()))
        return shifted(tau, self.shift).clamp(self.low, self.high)


def shifted(tau: Tensor, shift: float) -> Tensor:
    """tau / (shift + (1 - shift) * tau): above 1, times move towards the noise."""
    return tau / (shift + (1 - shift) * tau)


def time_grid(num_steps: int, *, grid: Grid = "reference", shift: float = 1.0) -> Tensor:
    """The taus of one stage: (num_steps + 1,) float64, from 0 to 1.

    reference: linspace(0, 0.999, N) and then 1, so the last step is 0.001 short (PixelFlow's release).
    uniform: N equal steps. A shift above 1 spends more steps near the noise: tau / (shift + (1 - shift) * tau).
    """
    if grid == "reference":
        tau = torch.linspace(0, 0.999, num_steps, dtype=torch.float64)
    else:
        tau = torch.arange(num_steps, dtype=torch.float64) / num_steps
    return torch.cat([shifted(tau, shift), torch.ones(1, dtype=torch.float64)])
