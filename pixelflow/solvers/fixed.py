"""Solvers of dx/dtau = velocity(x, tau) with a fixed time grid. They do not depend on models.

A step from tau to tau' has the length h = tau' - tau. Guidance may change with time; if a step evaluates the velocity
at several times, `guidance_tau` is the time at which the guidance scale is read.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from torch import Tensor

from pixelflow.flow.timesteps import Grid, time_grid
from pixelflow.limits import above, at_least, at_most
from pixelflow.types import VelocityFn

MOST_STEPS = 10**6
"""Largest number of steps per stage."""


class FixedGrid:
    """The base class of solvers with a fixed time grid.

    Args:
        num_steps: Steps per stage: one number, or a list with a number for each stage.
        num_stages: Number of stages of the cascade.
        grid: See `time_grid`.
        shift: See `time_grid`.

    Raises:
        ValueError: A number of steps is below 1, the list has not num_stages entries, or shift is not above 0.
    """

    last_tau: float | None = None
    """The timestep at tau is the one of training (see `Cascade.timestep`)."""

    adaptive = False

    def __init__(
        self, *, num_steps: int | list[int], num_stages: int, grid: Grid = "reference", shift: float = 1.0
    ) -> None:
        at_least(1, num_stages=num_stages)
        at_most(64, num_stages=num_stages)
        steps = [num_steps] * num_stages if isinstance(num_steps, int) else list(num_steps)
        if len(steps) != num_stages:
            raise ValueError(f"num_steps={num_steps} has {len(steps)} entries, but the cascade has {num_stages} stages")
        if min(steps) < 1:
            raise ValueError(f"num_steps={num_steps} must be at least 1")
        at_most(MOST_STEPS, num_steps=max(steps))
        above(0, shift=shift)
        self.num_steps, self.grid, self.shift = steps, grid, shift

    def time_grid(self, stage: int) -> Tensor:
        """Returns the times of the stage, (K+1,) float64."""
        return time_grid(self.num_steps[stage], grid=self.grid, shift=self.shift)


class Euler(FixedGrid):
    """Euler's method, x <- x + h * v(x, tau): order 1, one evaluation per step.

    Examples:
        >>> import torch
        >>> solver = Euler(num_steps=4, num_stages=1, grid="uniform")
        >>> x, nfe = solver.integrate(lambda x, tau: torch.ones_like(x), torch.zeros(1), solver.time_grid(0))
        >>> x.item(), nfe
        (1.0, 4)
    """

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """Returns the state at grid[-1] for the state x (B, ...) at grid[0], and the number of evaluations.

        Args:
            velocity_fn: The velocity.
            x: (B, ...), the state at grid[0].
            grid: (K+1,), rising times.
        """
        taus = grid.tolist()
        for tau, next_tau in itertools.pairwise(taus):
            x = x + (next_tau - tau) * velocity_fn(x, tau)
        return x, len(taus) - 1


class Heun(FixedGrid):
    """Heun's method, x <- x + h/2 * (v(x, tau) + v(x + h*v, tau')): order 2, two evaluations per step.

    The last step is Euler's, because the velocity of a network that predicts x is not defined at tau = 1. Both
    evaluations of a step take the guidance scale of its start (PixelGen's release).
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
    """The Adams-Bashforth method, x <- x + h * sum_j c_j * v_j over the last `order` velocities.

    Each step takes one evaluation. The c_j integrate the polynomial through the velocities over the step, so the grid
    need not be equidistant.

    Args:
        num_steps: See `FixedGrid`.
        num_stages: See `FixedGrid`.
        order: 1 to 4.
        startup: Method of the first order - 1 steps, for which too few velocities are known. "lower_order" uses the
            known ones (PixelGen's release); its first step is Euler's, which on equal steps reduces orders 3 and 4 to
            order 2. "runge_kutta" takes classical Runge-Kutta steps with three more evaluations each.
        grid: See `FixedGrid`.
        shift: See `FixedGrid`.

    Raises:
        ValueError: order is not in 1..4, or an argument of `FixedGrid` is invalid.
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
    """Returns the weights of the velocities at the times `known` for a step from known[-1] to `end`.

    Each weight is the integral of a Lagrange polynomial over the step; the weights are normalised to sum 1.

    Args:
        known: Times of the known velocities, the newest last.
        end: End of the step.
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
    """Takes a classical step of order 4. first: v(x, tau)."""
    h, middle = next_tau - tau, (tau + next_tau) / 2
    second = velocity_fn(x + h / 2 * first, middle, guidance_tau=tau)
    third = velocity_fn(x + h / 2 * second, middle, guidance_tau=tau)
    fourth = velocity_fn(x + h * third, next_tau, guidance_tau=tau)
    return x + h / 6 * (first + 2 * second + 2 * third + fourth)
