"""Solvers with a fixed time grid. They integrate dx/dtau = velocity(x, tau) and know nothing of models.

A step from tau to tau' is h = tau' - tau long. Guidance may change with time; where a step evaluates the velocity
twice, `guidance_tau` says which of the two times the guidance belongs to.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from torch import Tensor

from pixelflow.flow.timesteps import Grid, time_grid
from pixelflow.types import VelocityFn


class FixedGrid:
    """What the solvers of this file share.

    num_steps: steps per stage, one number or one for each stage. grid, shift: see `time_grid`.
    Raises ValueError for steps below 1, a list of another length than num_stages, or shift <= 0.
    """

    last_tau: float | None = None
    """The timestep of tau is that of training (see `Cascade.timestep`)."""

    adaptive = False

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


class Euler(FixedGrid):
    """x <- x + h * v(x, tau): order 1, one evaluation per step."""

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """x (B, ...) at grid[0] -> x at grid[-1], and the number of evaluations. grid: (K+1,) rising."""
        taus = grid.tolist()
        for tau, next_tau in itertools.pairwise(taus):
            x = x + (next_tau - tau) * velocity_fn(x, tau)
        return x, len(taus) - 1


class Heun(FixedGrid):
    """x <- x + h/2 * (v(x, tau) + v(x + h*v, tau')): order 2, two evaluations per step.

    The last step is Euler's: at tau = 1 a network that predicts x has no velocity of its own. Both evaluations of a
    step are guided as at its start (PixelGen's release).
    """

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """See `Euler.integrate`."""
        taus = grid.tolist()
        for tau, next_tau in itertools.pairwise(taus[:-1]):
            h = next_tau - tau
            first = velocity_fn(x, tau)
            second = velocity_fn(x + h * first, next_tau, guidance_tau=tau)
            x = x + h / 2 * (first + second)
        x = x + (taus[-1] - taus[-2]) * velocity_fn(x, taus[-2])
        return x, 2 * (len(taus) - 2) + 1


class AdamsBashforth(FixedGrid):
    """x <- x + h * sum_j c_j * v_j over the last `order` velocities: one evaluation per step.

    The c_j integrate the polynomial through the velocities over the step, so any grid will do.
    order: 1 to 4. startup: how the first order - 1 steps are taken, where too few velocities are known.
    "lower_order" uses those there are (PixelGen's release); its first step is Euler's, which on equal steps leaves
    orders 3 and 4 at order 2. "runge_kutta" takes classical Runge-Kutta steps, three more evaluations each.
    Raises ValueError for another order, and what FixedGrid does.
    """

    def __init__(
        self,
        *,
        num_steps: int | list[int],
        num_stages: int,
        order: int = 2,
        startup: Literal["lower_order", "runge_kutta"] = "lower_order",
        grid: Grid = "reference",
        shift: float = 1.0,
    ) -> None:
        super().__init__(num_steps=num_steps, num_stages=num_stages, grid=grid, shift=shift)
        if not 1 <= order <= 4:
            raise ValueError(f"order={order} must be in 1..4")
        self.order, self.startup = order, startup

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """See `Euler.integrate`."""
        taus = grid.tolist()
        velocities: list[Tensor] = []  # the newest last
        nfe = 0
        for step, (tau, next_tau) in enumerate(itertools.pairwise(taus)):
            velocities = [*velocities, velocity_fn(x, tau)][-self.order :]
            if self.startup == "runge_kutta" and step < self.order - 1:
                x = _runge_kutta_step(velocity_fn, x, velocities[-1], tau, next_tau)
                nfe += 4
                continue
            coefficients = adams_coefficients(taus[step + 1 - len(velocities) : step + 1], next_tau)
            for coefficient, velocity in zip(coefficients, velocities, strict=True):
                x = x + (next_tau - tau) * coefficient * velocity
            nfe += 1
        return x, nfe


def adams_coefficients(known: list[float], end: float) -> list[float]:
    """Weights of the velocities at the times `known` (the newest last) for a step from known[-1] to `end`.

    Each is the integral of its Lagrange polynomial over the step; together they are normalised to sum 1.
    """
    weights = []
    for j, node in enumerate(known):
        # In units of the step, from its start: differences of nearby times keep their digits.
        step = end - known[-1]
        others = [(other - known[-1]) / step for i, other in enumerate(known) if i != j]
        numerator = np.poly1d(others, r=True) if others else np.poly1d([1.0])
        denominator = np.prod([(node - known[-1]) / step - other for other in others])
        weights.append(np.polyint(numerator)(1.0) / denominator)
    return [float(weight) for weight in np.array(weights) / np.sum(weights)]


def _runge_kutta_step(velocity_fn: VelocityFn, x: Tensor, first: Tensor, tau: float, next_tau: float) -> Tensor:
    """A classical step of order 4. first: v(x, tau)."""
    h, middle = next_tau - tau, (tau + next_tau) / 2
    second = velocity_fn(x + h / 2 * first, middle, guidance_tau=tau)
    third = velocity_fn(x + h / 2 * second, middle, guidance_tau=tau)
    fourth = velocity_fn(x + h * third, next_tau, guidance_tau=tau)
    return x + h / 6 * (first + 2 * second + 2 * third + fourth)
