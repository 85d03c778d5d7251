"""Tests every solver on equations with known solutions, by order of convergence and independent implementations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.solvers import AdamsBashforth, AdaptiveRungeKutta, Euler, FixedRungeKutta, Heun
from pixelflow.solvers.fixed import FixedGrid, adams_coefficients

X0 = torch.tensor([[1.0], [-3.0]], dtype=torch.float64)


class Decay:
    """dx/dtau = tau - x, solved by tau - 1 + (x0 + 1) * exp(-tau). Records where it was evaluated."""

    def __init__(self) -> None:
        self.taus: list[float] = []
        self.guidance_taus: list[float] = []

    def __call__(self, x: Tensor, tau: Any, *, guidance_tau: float | None = None, images: Any = None) -> Tensor:
        self.taus.append(tau)
        self.guidance_taus.append(tau if guidance_tau is None else guidance_tau)
        return (tau[:, None] if isinstance(tau, Tensor) else tau) - x


EXACT = (X0 + 1) * math.exp(-1.0)


def slope(solver_of: Any, grid_of: Any, steps: list[int]) -> float:
    errors = []
    for n in steps:
        got, _ = solver_of(n).integrate(Decay(), X0, grid_of(n))
        errors.append((got - EXACT).abs().max().item())
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


def uniform(n: int) -> Tensor:
    return torch.linspace(0, 1, n + 1, dtype=torch.float64)


def shifted(n: int) -> Tensor:
    return Euler(num_steps=n, num_stages=1, grid="uniform", shift=2.0).time_grid(0)


def graded(n: int) -> Tensor:
    """Short first steps, where a multistep method without history has a lower order, and a short last step."""
    tau = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    return 1 - (1 - tau**3) ** 2


def make(kind: type, **settings: Any) -> Any:
    return lambda n: kind(num_steps=n, num_stages=1, **settings)


ORDERS = [
    ("euler", make(Euler), uniform, 1),
    ("heun", make(Heun), graded, 2),
    ("adams1", make(AdamsBashforth, order=1), shifted, 1),
    ("adams2", make(AdamsBashforth, order=2), uniform, 2),
    ("adams2 shifted", make(AdamsBashforth, order=2), shifted, 2),
    ("adams3", make(AdamsBashforth, order=3), graded, 3),
    ("adams4", make(AdamsBashforth, order=4), graded, 4),
    ("adams3 runge_kutta", make(AdamsBashforth, order=3, startup="runge_kutta"), uniform, 3),
    ("adams4 runge_kutta", make(AdamsBashforth, order=4, startup="runge_kutta"), shifted, 4),
    ("midpoint", make(FixedRungeKutta, method="midpoint"), shifted, 2),
    ("rk4", make(FixedRungeKutta, method="rk4"), uniform, 4),
]


@pytest.mark.parametrize(("solver_of", "grid_of", "order"), [o[1:] for o in ORDERS], ids=[o[0] for o in ORDERS])
def test_order_of_convergence(solver_of: Any, grid_of: Any, order: int) -> None:
    assert slope(solver_of, grid_of, [40, 80, 160, 320]) == pytest.approx(order, abs=0.2)


def test_adams_of_order_4_started_by_euler_stays_at_order_2_on_equal_steps() -> None:
    """The lower-order start of PixelGen's release reduces the higher orders, as `startup` says."""
    assert slope(make(AdamsBashforth, order=4), uniform, [40, 80, 160, 320]) == pytest.approx(2, abs=0.2)


def test_heun_ends_with_a_step_of_euler() -> None:
    """It keeps order 2 on the reference grid, whose last step is 0.001, and its last evaluation is before 1."""
    velocity = Decay()
    _, nfe = Heun(num_steps=3, num_stages=1).integrate(velocity, X0, torch.tensor([0, 0.1, 0.5, 1.0]))
    assert velocity.taus == pytest.approx([0, 0.1, 0.1, 0.5, 0.5])
    assert velocity.guidance_taus == pytest.approx([0, 0, 0.1, 0.1, 0.5])  # both evaluations of a step as at its start
    assert nfe == 5


def test_heun_by_hand() -> None:
    x = 1.0
    for tau, h in ((0.0, 0.1), (0.1, 0.4)):
        first = tau - x
        x += h / 2 * (first + (tau + h) - (x + h * first))
    x += 0.5 * (0.5 - x)
    got, _ = Heun(num_steps=3, num_stages=1).integrate(
        Decay(), X0[:1], torch.tensor([0, 0.1, 0.5, 1.0], dtype=torch.float64)
    )
    assert got.item() == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize(
    ("order", "weights"),
    [
        (1, [1]),
        (2, [-1 / 2, 3 / 2]),
        (3, [5 / 12, -16 / 12, 23 / 12]),
        (4, [-9 / 24, 37 / 24, -59 / 24, 55 / 24]),
    ],
)
def test_adams_coefficients_of_equal_steps_are_those_of_the_textbook(order: int, weights: list[float]) -> None:
    assert adams_coefficients([0.1 * i for i in range(order)], 0.1 * order) == pytest.approx(weights, rel=1e-9)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_coefficients_integrate_polynomials_on_any_grid(order: int) -> None:
    """Against numerical integration of the Lagrange polynomials, and exactness up to degree order - 1."""
    known, end = [0.05, 0.2, 0.6, 0.7][:order], 0.9
    weights = adams_coefficients(known, end)
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    for degree in range(order):
        got = (end - known[-1]) * sum(w * t**degree for w, t in zip(weights, known, strict=True))
        assert got == pytest.approx((end ** (degree + 1) - known[-1] ** (degree + 1)) / (degree + 1), rel=1e-9)


def test_adams_on_an_uneven_grid_by_hand() -> None:
    t = [0.0, 0.1, 0.5, 1.0]
    x, old = 1.0, None
    for tau, end in itertools.pairwise(t):
        new, h = tau - x, end - tau
        if old is None:
            x, old = x + h * new, (tau, new)
        else:
            ratio = h / (tau - old[0])  # variable-step Adams-Bashforth 2, from a textbook
            x, old = x + h * ((1 + ratio / 2) * new - ratio / 2 * old[1]), (tau, new)
    got, nfe = AdamsBashforth(num_steps=3, num_stages=1).integrate(
        Decay(), X0[:1], torch.tensor(t, dtype=torch.float64)
    )
    assert got.item() == pytest.approx(x, rel=1e-12)
    assert nfe == 3


def test_evaluations_are_counted() -> None:
    expected = {"heun": 19, "adams4": 10, "adams4 runge_kutta": 3 * 4 + 7, "midpoint": 20, "rk4": 40}
    for name, solver_of, grid_of, _ in ORDERS:
        velocity = Decay()
        _, nfe = solver_of(10).integrate(velocity, X0, grid_of(10))
        assert nfe == len(velocity.taus)
        assert nfe == expected.get(name, nfe)


# --- adaptive -----------------------------------------------------------------------------------------------------


def pendulum(x: Tensor, tau: Any, **_: Any) -> Tensor:
    """A nonlinear equation with a separate speed for each image; x: (B, 3) of angle, angular velocity and speed."""
    return torch.stack([x[:, 2] * x[:, 1], -x[:, 2] * x[:, 0].sin(), torch.zeros_like(x[:, 2])], dim=1)


PENDULUMS = torch.tensor([[1.0, 0.0, 1.0], [2.5, 0.3, 6.0], [0.1, 1.0, 5.0]], dtype=torch.float64)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("method", "order"), [("dopri5", 5), ("bosh3", 3)])
def test_adaptive_meets_its_tolerance_and_scipy(method: Any, order: int, per_image: bool) -> None:
    truth = torch.stack(
        [
            torch.from_numpy(
                solve_ivp(lambda t, y: pendulum(torch.from_numpy(y)[None], t)[0].numpy(), (0, 1), x0.numpy(),
                          rtol=1e-12, atol=1e-12).y[:, -1]
            )
            for x0 in PENDULUMS
        ]
    )  # fmt: skip
    evaluations = []
    for rtol in (1e-3, 1e-6):
        solver = AdaptiveRungeKutta(method=method, rtol=rtol, atol=1e-9, per_image=per_image)
        got, nfe = solver.integrate(pendulum, PENDULUMS, solver.time_grid(0))
        assert (got - truth).abs().max() < 100 * rtol
        evaluations.append(nfe)
    # Error per step goes with h^order, so a thousandth of it takes 1000^(1/order) times the steps.
    assert evaluations[1] / evaluations[0] == pytest.approx(1000 ** (1 / order), rel=0.5)


@pytest.mark.parametrize(("method", "order"), [("dopri5", 5), ("bosh3", 3)])
def test_order_of_the_adaptive_pairs(method: Any, order: int) -> None:
    """With a tolerance that any step meets and intervals of one step each, they are methods of fixed steps."""
    solver, steps, errors = AdaptiveRungeKutta(method=method, rtol=1.0, atol=1.0, per_image=True), [8, 16, 32, 64], []
    for n in steps:
        x = X0
        for interval in uniform(n).unfold(0, 2, 1):
            x, nfe = solver.integrate(Decay(), x, interval)
            assert nfe == {"dopri5": 8, "bosh3": 5}[method]  # two to begin with, and those of one step
        errors.append((x - EXACT).abs().max().item())
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.2)


def test_per_image_steps_do_not_depend_on_the_batch() -> None:
    solver = AdaptiveRungeKutta(method="dopri5", per_image=True)
    together, _ = solver.integrate(pendulum, PENDULUMS, solver.time_grid(0))
    alone = [solver.integrate(pendulum, x0[None], solver.time_grid(0)) for x0 in PENDULUMS]
    assert torch.equal(together, torch.cat([x for x, _ in alone]))
    assert len({nfe for _, nfe in alone}) == 3  # and each image takes as many as it needs
    whole = AdaptiveRungeKutta(method="dopri5")
    batch, _ = whole.integrate(pendulum, PENDULUMS, whole.time_grid(0))
    single, _ = whole.integrate(pendulum, PENDULUMS[:1], whole.time_grid(0))
    assert not torch.equal(batch[:1], single)  # the reference behaviour does depend on it


def test_per_image_steps_stay_within_the_stage_and_finished_images_are_left_out() -> None:
    seen: list[tuple[float, int]] = []

    def velocity(x: Tensor, tau: Tensor, *, images: Tensor, **_: Any) -> Tensor:
        assert len(x) == len(tau) == len(images)
        seen.append((tau.max().item(), len(x)))
        return pendulum(x, tau)

    solver = AdaptiveRungeKutta(method="bosh3", per_image=True)
    _, nfe = solver.integrate(velocity, PENDULUMS, solver.time_grid(0))
    assert nfe == len(seen)
    assert max(tau for tau, _ in seen) == 1
    assert seen[0][1] == 3 and seen[-1][1] == 1


@pytest.mark.parametrize("per_image", [False, True])
def test_a_velocity_that_is_not_finite_is_reported(per_image: bool) -> None:
    solver = AdaptiveRungeKutta(method="dopri5", per_image=per_image)
    with pytest.raises(WorkFailed, match="found no step"):
        solver.integrate(lambda x, tau, **_: x * math.nan, X0, solver.time_grid(0))


def test_where_the_last_timestep_stands() -> None:
    assert Euler(num_steps=1, num_stages=1).last_tau is None
    assert AdaptiveRungeKutta(method="dopri5").last_tau == 1
    assert AdaptiveRungeKutta(method="dopri5", timesteps="trained").last_tau is None
    assert FixedRungeKutta(method="rk4", num_steps=1, num_stages=1).last_tau == 1


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (AdamsBashforth, {"num_steps": 3, "num_stages": 1, "order": 5}, "order=5 must be in 1..4"),
        (AdamsBashforth, {"num_steps": [3, 3], "num_stages": 1}, "has 2 entries"),
        (Heun, {"num_steps": 0, "num_stages": 1}, "num_steps=0 must be at least 1"),
        (FixedRungeKutta, {"method": "rk4", "num_steps": 3, "num_stages": 1, "shift": 0.0}, "shift=0.0"),
        (AdaptiveRungeKutta, {"method": "dopri5", "rtol": 0.0}, "rtol=0.0 must be above 0"),
    ],
)
def test_errors(kind: type[FixedGrid], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
