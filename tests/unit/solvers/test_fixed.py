from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelflow.solvers import Euler

STEPS = [16, 32, 64, 128]


def decay(x: Tensor, tau: float) -> Tensor:
    """dx/dtau = tau - x, solved by tau - 1 + (x0 + 1) * exp(-tau)."""
    return tau - x


def error(grid: str, shift: float, num_steps: int) -> float:
    solver = Euler(num_steps=num_steps, num_stages=1, grid=grid, shift=shift)  # type: ignore[arg-type]
    x0 = torch.tensor([1.0, -3.0], dtype=torch.float64)
    got, nfe = solver.integrate(decay, x0, solver.time_grid(0))
    assert nfe == num_steps
    return (got - (x0 + 1) * math.exp(-1.0)).abs().max().item()


@pytest.mark.parametrize(
    ("grid", "shift"), [("uniform", 1.0), ("uniform", 3.0), ("reference", 1.0), ("reference", 3.0)]
)
def test_order_of_convergence_is_one(grid: str, shift: float) -> None:
    errors = [error(grid, shift, n) for n in STEPS]
    slope = -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]
    assert slope == pytest.approx(1, abs=0.2)


def test_uneven_grid_by_hand() -> None:
    """dx/dtau = x + tau from x = 1 over 0, 0.1, 0.5, 1."""
    grid = torch.tensor([0, 0.1, 0.5, 1.0], dtype=torch.float64)
    visited = []

    def velocity(x: Tensor, tau: float) -> Tensor:
        visited.append(tau)
        return x + tau

    got, nfe = Euler(num_steps=3, num_stages=1).integrate(velocity, torch.ones(1, dtype=torch.float64), grid)
    x1 = 1 + 0.1 * 1
    x2 = x1 + 0.4 * (x1 + 0.1)
    assert got.item() == pytest.approx(x2 + 0.5 * (x2 + 0.5), rel=1e-12)
    assert nfe == 3
    assert visited == [0, 0.1, 0.5]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_exact_for_a_constant_velocity(shift: float) -> None:
    """The velocity is constant along a straight path, so one step is exact on any grid."""
    velocity = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for num_steps in (1, 7):
        solver = Euler(num_steps=num_steps, num_stages=1, shift=shift)
        got, _ = solver.integrate(lambda x, tau: velocity, torch.zeros_like(velocity), solver.time_grid(0))
        torch.testing.assert_close(got, velocity)


def test_steps_per_stage() -> None:
    solver = Euler(num_steps=[3, 1, 5], num_stages=3)
    assert [len(solver.time_grid(stage)) - 1 for stage in range(3)] == [3, 1, 5]
    assert [len(Euler(num_steps=4, num_stages=2).time_grid(stage)) for stage in range(2)] == [5, 5]


def test_keeps_the_dtype_and_the_input() -> None:
    x = torch.ones(2)
    got, _ = Euler(num_steps=4, num_stages=1).integrate(decay, x, torch.linspace(0, 1, 5, dtype=torch.float64))
    assert got.dtype == torch.float32
    assert torch.equal(x, torch.ones(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": [4, 4], "num_stages": 3}, "has 2 entries, but the cascade has 3 stages"),
        ({"num_steps": 0, "num_stages": 1}, "num_steps=0 must be at least 1"),
        ({"num_steps": [3, 0], "num_stages": 2}, "must be at least 1"),
        ({"num_steps": 3, "num_stages": 1, "shift": 0.0}, "shift=0.0 must be above 0"),
        ({"num_steps": 3, "num_stages": 1, "shift": -1.0}, "shift=-1.0 must be above 0"),
    ],
)
def test_errors(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Euler(**settings)  # type: ignore[arg-type]
