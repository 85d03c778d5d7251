"""Adaptive Runge-Kutta with a separate step size for each image, so that the result does not depend on the batch.

All images that have not reached the end are evaluated together, each at its own time. The step control follows
Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4.

Shape legend: B images of the batch, A images that have not reached the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.types import VelocityFn

SAFETY, LEAST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0
"""Share of the step size that the error estimate allows, and limits of the ratio of two consecutive steps."""
SMALLEST_STEP = 1e-9


@dataclass(frozen=True)
class Tableau:
    """An embedded pair of Runge-Kutta methods whose last evaluation is the first one of the next step.

    Args:
        order: Order of the solution.
        times: Times of the evaluations after the first, in units of the step.
        weights: For each of them the weights of the velocities before it; the last row is the solution's.
        error: Weights of the solution minus the embedded solution.
    """

    order: int
    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]


TABLEAUS = {
    # Dormand and Prince 1980.
    "dopri5": Tableau(
        order=5,
        times=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        weights=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    ),
    # Bogacki and Shampine 1989.
    "bosh3": Tableau(
        order=3,
        times=(1 / 2, 3 / 4, 1),
        weights=((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    ),
}


def integrate_per_image(
    velocity_fn: VelocityFn, x: Tensor, start: float, end: float, *, tableau: Tableau, rtol: float, atol: float
) -> tuple[Tensor, int]:
    """Integrates from `start` to `end` with a separate step size for each image.

    Args:
        velocity_fn: The velocity; it receives (A,) times and the positions of the images in the batch.
        x: (B, ...), the state at `start`.
        start: First time.
        end: Last time.
        tableau: The method.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Returns:
        The state at `end`, and the number of calls of velocity_fn.

    Raises:
        WorkFailed: No step of an image is small enough, for example because the velocity is not finite.
    """
    tau = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
    everyone = torch.arange(len(x), device=x.device)
    velocity = velocity_fn(x, tau, images=everyone)
    h = _first_step(velocity_fn, x, velocity, tau, everyone, tableau.order, rtol, atol).clamp(max=end - start)
    nfe = 2
    while True:
        active = (tau < end).nonzero()[:, 0]
        if not len(active):
            return x, nfe
        step = torch.minimum(h[active], end - tau[active])
        if not (step > SMALLEST_STEP * (end - start)).all():
            raise WorkFailed(f"an image found no step at tau={tau[active].min():.6f}: is the velocity finite?")
        proposal, last, error = _step(velocity_fn, x[active], velocity[active], tau[active], step, active, tableau)
        nfe += len(tableau.times)
        ratio = _norm(error / _tolerance(x[active], proposal, rtol, atol))
        accepted = ratio <= 1
        moved = active[accepted]
        x, velocity = x.index_copy(0, moved, proposal[accepted]), velocity.index_copy(0, moved, last[accepted])
        arrived = step >= end - tau[active]
        tau[moved] = torch.where(arrived, end, tau[active] + step)[accepted]
        h[active] = step * _factor(ratio, accepted, tableau.order)


def _step(
    velocity_fn: VelocityFn, x: Tensor, first: Tensor, tau: Tensor, h: Tensor, images: Tensor, tableau: Tableau
) -> tuple[Tensor, Tensor, Tensor]:
    """Takes a step of each image: returns the state, the velocity there and the error estimate, (A, ...) each."""
    velocities, size = [first], _column(h, x)
    state = x
    for time, row in zip(tableau.times, tableau.weights, strict=True):
        state = x + size * _combine(row, velocities)
        velocities.append(velocity_fn(state, tau + time * h, images=images))
    return state, velocities[-1], size * _combine(tableau.error, velocities)


def _combine(weights: tuple[float, ...], velocities: list[Tensor]) -> Tensor:
    terms = [w * v for w, v in zip(weights, velocities, strict=True) if w != 0]
    return sum(terms[1:], start=terms[0])


def _first_step(
    velocity_fn: VelocityFn,
    x: Tensor,
    velocity: Tensor,
    tau: Tensor,
    images: Tensor,
    order: int,
    rtol: float,
    atol: float,
) -> Tensor:
    """Estimates the first step, (B,) float64, from the norms of the velocity and of its change."""
    scale = atol + rtol * x.abs()
    size, speed = _norm(x / scale), _norm(velocity / scale)
    h0 = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    there = velocity_fn(x + _column(h0, x) * velocity, tau + h0, images=images)
    bend = torch.maximum(speed, _norm((there - velocity) / scale) / h0)
    h1 = torch.where(bend <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / bend) ** (1 / order))
    return torch.minimum(100 * h0, h1)


def _tolerance(x: Tensor, proposal: Tensor, rtol: float, atol: float) -> Tensor:
    return atol + rtol * torch.maximum(x.abs(), proposal.abs())


def _factor(ratio: Tensor, accepted: Tensor, order: int) -> Tensor:
    """Ratio of the next step to this one, (A,): at most 1 after a rejection, the least if the error is not finite."""
    factor = SAFETY / ratio.clamp(min=1e-12) ** (1 / order)
    factor = torch.where(torch.isfinite(ratio), factor, LEAST_FACTOR)
    return factor.clamp(min=LEAST_FACTOR).minimum(torch.where(accepted, LARGEST_FACTOR, 1.0))


def _norm(values: Tensor) -> Tensor:
    """Root mean square of each image: (A, ...) -> (A,) float64."""
    flat = values.flatten(1).double()
    return flat.norm(dim=1) / math.sqrt(flat.shape[1])


def _column(h: Tensor, like: Tensor) -> Tensor:
    """Reshapes (A,) to (A, 1, ...) in the dtype of `like`."""
    return h.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
