"""Solvers with a fixed time grid. They integrate dx/dtau = velocity(x, tau) and know nothing of models."""

from __future__ import annotations

import itertools

from torch import Tensor

from pixelflow.flow.timesteps import Grid, time_grid
from pixelflow.types import VelocityFn


class Euler:
    """x <- x + (tau' - tau) * v(x, tau): order 1, one evaluation per step.

    num_steps: steps per stage, one number or one for each stage. grid, shift: see `time_grid`.
    Raises ValueError for steps below 1, a list of another length than num_stages, or shift <= 0.
    """

    def __init__(
        self, *, num_steps: int | list[int], num_stages: int, grid: Grid = "reference", shift: float = 1.0
    ) -> None:
        steps = [num_steps] * num_stages if isinstance(num_steps, int) else list(num_steps)
        if len(steps) != num_stages:
            raise ValueError(f"num_steps={num_steps} has {len(steps)} entries, but the cascade has {num_stages} stages")
        if min(steps) < 1:
            raise ValueError(f"num_steps={num_steps} must be at least 1")
        if shift <= 0:
            raise ValueError(f"shift={shift} must be above 0")
        self.num_steps, self.grid, self.shift = steps, grid, shift

    def time_grid(self, stage: int) -> Tensor:
        """(K+1,) float64, the taus of the stage."""
        return time_grid(self.num_steps[stage], grid=self.grid, shift=self.shift)

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """x (B, ...) at grid[0] -> x at grid[-1], and the number of evaluations. grid: (K+1,) rising."""
        taus = grid.tolist()
        for tau, next_tau in itertools.pairwise(taus):
            x = x + (next_tau - tau) * velocity_fn(x, tau)
        return x, len(taus) - 1
