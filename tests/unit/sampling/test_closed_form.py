"""The cascade on Gaussian images, whose flow has a closed form: what every solver ought to reach, to the last digit.

Per pixel, the part of an image that its coarse version shows (Px) and the rest (x - Px) are independent Gaussians. In
each of them x_t = A*x + B*eps has the variance V = A^2 s^2 + B^2, the velocity V'/(2V) * x_t, and the trajectory
x(tau) = x(0) * sqrt(V(tau) / V(0)).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.conditioning import ClassLabel
from pixelflow.flow import Cascade, NoGuidance
from pixelflow.flow.path import StagePath, project
from pixelflow.sampling import Sampler
from pixelflow.solvers import AdamsBashforth, Euler
from pixelflow.types import BackboneOutput, Condition, Solver

SHOWN, REST = 0.8, 0.2
CASCADE = Cascade(image_size=16, num_stages=3)


def variances(path: StagePath, tau: Tensor) -> list[tuple[Tensor, Tensor]]:
    """V and V' of the shown part and of the rest."""
    noise, slope = path.sigma(tau), path.start - path.end
    shown, rest = tau * path.end + (1 - tau) * path.start, tau * path.end
    return [
        (shown**2 * SHOWN**2 + noise**2, 2 * (shown * (path.end - path.start) * SHOWN**2 + noise * slope)),
        (rest**2 * REST**2 + noise**2, 2 * (rest * path.end * REST**2 + noise * slope)),
    ]


class GaussianFlow:
    """The exact velocity, in the place of a network and its prediction."""

    patch_size, fixed_resolution = 1, None

    def __call__(self, x_t: Tensor, timestep: Tensor, condition: Condition, features: Any = ()) -> BackboneOutput:
        return BackboneOutput(x_t)

    def velocity(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: StagePath) -> Tensor:
        (shown, shown_slope), (rest, rest_slope) = variances(path, tau.view(-1, 1, 1, 1))
        px = project(x_t)
        return shown_slope / (2 * shown) * px + rest_slope / (2 * rest) * (x_t - px)


def sampler_with(solver: Solver) -> Sampler:
    return Sampler(
        backbone=GaussianFlow(), cascade=CASCADE, prediction=GaussianFlow(), solver=solver, guidance=NoGuidance(),  # type: ignore[arg-type]
        conditioning=ClassLabel(num_classes=1), channels=1,
    )  # fmt: skip


def noise(stage: int) -> Tensor:
    generator = torch.Generator().manual_seed(stage)
    side = CASCADE.resolution(stage)
    white = torch.randn(8, 1, side, side, generator=generator, dtype=torch.float64)
    return white if stage == 0 else CASCADE.correlate(white)


def exact() -> Tensor:
    x = noise(0)
    for stage in range(CASCADE.num_stages):
        if stage:
            x = CASCADE.renoise(x, stage, noise(stage))
        ends = variances(CASCADE.path(stage), torch.tensor([0.0, 1.0], dtype=torch.float64))
        shown, rest = [(v[1] / v[0]).sqrt() for v, _ in ends]
        px = project(x)
        x = shown * px + rest * (x - px)
    return x


def error(solver: Solver) -> float:
    samples = sampler_with(solver).sample(Condition(torch.zeros(8, dtype=torch.int64)), noise)
    truth = exact()
    return ((samples.x - truth).norm() / truth.norm()).item()


def test_a_fine_solution_meets_the_closed_form() -> None:
    assert error(AdamsBashforth(num_steps=400, num_stages=3, order=4, startup="runge_kutta", grid="uniform")) < 1e-6


@pytest.mark.parametrize(("kind", "order"), [(Euler, 1), (AdamsBashforth, 2)])
def test_the_cascade_keeps_a_solver_s_order(kind: Any, order: int) -> None:
    errors = [error(kind(num_steps=n, num_stages=3, grid="uniform")) for n in (100, 200, 400)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("steps", [10, 15])
def test_adams_bashforth_2_is_closer_with_half_the_steps_of_euler(steps: int) -> None:
    """Why the presets `fast` and `faster` use it."""
    euler = error(Euler(num_steps=30, num_stages=3, grid="uniform"))
    assert error(AdamsBashforth(num_steps=steps, num_stages=3, order=2, grid="uniform")) < 0.5 * euler
