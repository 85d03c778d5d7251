from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelflow.flow import Cascade, StagePath
from pixelflow.flow.path import add_up, down, project, up

STAGES = [(num_stages, stage) for num_stages in (1, 2, 3, 4) for stage in range(num_stages)]
LAST_STAGES = [(num_stages, num_stages - 1) for num_stages in (1, 2, 3, 4)]


def path_of(num_stages: int, stage: int, t_eps: float = 0.05) -> StagePath:
    return Cascade(image_size=8 * 2 ** (num_stages - 1), num_stages=num_stages, t_eps=t_eps).path(stage)


def draw(seed: int = 0, *, batch: int = 16, most_tau: float = 0.85) -> tuple[Tensor, Tensor, Tensor]:
    """x, noise and tau, float64. Up to 0.85 every sigma is above the clamp of the last stage."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, batch, 3, 8, 8, dtype=torch.float64, generator=generator)
    return x, noise, torch.linspace(0, most_tau, batch, dtype=torch.float64)


def test_down_is_bilinear_without_aligned_corners() -> None:
    x = draw()[0]
    expected = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(down(x), expected)


def test_up_is_nearest() -> None:
    x = draw()[0]
    assert torch.equal(up(x), F.interpolate(x, scale_factor=2, mode="nearest"))


def test_project_is_a_projection() -> None:
    x, noise, _ = draw()
    torch.testing.assert_close(project(project(x)), project(x))
    # ... and an orthogonal one: what it leaves out has nothing in common with what it keeps.
    assert ((x - project(x)) * project(noise)).sum().abs() < 1e-9


def test_add_up_is_up_plus_a_multiple() -> None:
    coarse, fine = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 8, 10)
    torch.testing.assert_close(add_up(coarse, fine, alpha=0.3), up(coarse) + 0.3 * fine)


@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_the_path_runs_from_start_to_end(num_stages: int, stage: int) -> None:
    path = path_of(num_stages, stage)
    x, noise, tau = draw(most_tau=1.0)
    coarse = F.interpolate(F.interpolate(x, scale_factor=0.5, mode="bilinear"), scale_factor=2, mode="nearest")
    start = path.start * coarse + (1 - path.start) * noise
    end = path.end * x + (1 - path.end) * noise
    torch.testing.assert_close(path.interpolate(x, noise, torch.zeros(16)), start)
    torch.testing.assert_close(path.interpolate(x, noise, torch.ones(16)), end)
    torch.testing.assert_close(path.velocity(x, noise), end - start)
    x_t = path.interpolate(x, noise, tau)
    torch.testing.assert_close(x_t, start + tau.view(-1, 1, 1, 1) * (end - start))
    # sigma is what x_t holds of the noise.
    shares = path.interpolate(torch.zeros_like(x), torch.ones_like(x), tau)[:, 0, 0, 0]
    torch.testing.assert_close(path.sigma(tau), shares)


@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_conversions_of_the_true_path(num_stages: int, stage: int) -> None:
    path = path_of(num_stages, stage)
    x, noise, tau = draw(1)
    x_t, velocity = path.interpolate(x, noise, tau), path.velocity(x, noise)
    torch.testing.assert_close(path.velocity_from_x(x, x_t, tau), velocity, atol=1e-9, rtol=0)
    torch.testing.assert_close(path.x_from_velocity(velocity, x_t, tau), x, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_conversions_are_inverse_to_each_other(num_stages: int, stage: int) -> None:
    """Also for an x_t that neither the predicted image nor the predicted velocity made."""
    path = path_of(num_stages, stage)
    x_t, predicted, tau = draw(2)
    there = path.velocity_from_x(predicted, x_t, tau)
    torch.testing.assert_close(path.x_from_velocity(there, x_t, tau), predicted, atol=1e-9, rtol=0)
    there = path.x_from_velocity(predicted, x_t, tau)
    torch.testing.assert_close(path.velocity_from_x(there, x_t, tau), predicted, atol=1e-9, rtol=0)


def test_x_from_velocity_holds_up_to_tau_one() -> None:
    """It divides by nothing that vanishes, so it needs no clamp."""
    for num_stages, stage in STAGES:
        path = path_of(num_stages, stage)
        x, noise, tau = draw(3, most_tau=1.0)
        got = path.x_from_velocity(path.velocity(x, noise), path.interpolate(x, noise, tau), tau)
        torch.testing.assert_close(got, x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("t_eps", [0.05, 0.2])
@pytest.mark.parametrize(("num_stages", "stage"), LAST_STAGES)
def test_the_clamp_acts_on_the_denominator_alone(num_stages: int, stage: int, t_eps: float) -> None:
    path = path_of(num_stages, stage, t_eps)
    x, noise, _ = draw(4)
    tau = torch.linspace(0.9, 1.0, 16, dtype=torch.float64)
    x_t = path.interpolate(noise, x, tau)  # any state; not the one that belongs to x
    got = path.velocity_from_x(x, x_t, tau)
    assert torch.isfinite(got).all()

    sigma, inner = path.sigma(tau).view(-1, 1, 1, 1), slice(0, -1)  # sigma is 0 at the last tau
    unclamped = path_of(num_stages, stage, 1e-12).velocity_from_x(x, x_t, tau)
    expected = unclamped * sigma / sigma.clamp(min=t_eps)
    assert (sigma < t_eps).any()
    torch.testing.assert_close(got[inner], expected[inner], atol=1e-9, rtol=0)

    tau_one = torch.ones(16)
    assert path.sigma(tau_one).eq(0).all()
    at_one = path.velocity_from_x(x, x_t, tau_one)
    torch.testing.assert_close(at_one, (path.end - path.start) * (x - x_t) / t_eps, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("num_stages", "stage"), sorted(set(STAGES) - set(LAST_STAGES)))
def test_no_clamp_where_sigma_stays_above_zero(num_stages: int, stage: int) -> None:
    x, x_t, tau = draw(5, most_tau=1.0)
    small, large = (path_of(num_stages, stage, t_eps).velocity_from_x(x, x_t, tau) for t_eps in (1e-6, 0.9))
    assert torch.equal(small, large)


def test_one_stage_is_plain_flow_matching() -> None:
    path = path_of(1, 0)
    x, noise, t = draw(6)
    wide = t.view(-1, 1, 1, 1)
    x_t = wide * x + (1 - wide) * noise
    torch.testing.assert_close(path.interpolate(x, noise, t), x_t)
    torch.testing.assert_close(path.velocity(x, noise), x - noise)
    torch.testing.assert_close(path.velocity_from_x(x, x_t, t), (x - x_t) / (1 - wide))
    torch.testing.assert_close(path.x_from_velocity(x - noise, x_t, t), x)


def test_one_stage_clamps_as_pixelgen_does() -> None:
    x, x_t, _ = draw(7)
    t = torch.linspace(0, 1, 16, dtype=torch.float64)
    expected = (x - x_t) / (1 - t.view(-1, 1, 1, 1)).clamp(min=0.05)
    torch.testing.assert_close(path_of(1, 0).velocity_from_x(x, x_t, t), expected)


def test_one_stage_takes_images_that_cannot_be_halved() -> None:
    x, noise = torch.randn(2, 2, 1, 7, 7)
    path, tau = path_of(1, 0), torch.tensor([0.1, 0.8])
    velocity = path.velocity_from_x(x, path.interpolate(x, noise, tau), tau)
    torch.testing.assert_close(velocity, x - noise, atol=1e-5, rtol=0)


def test_dtype_follows_the_images() -> None:
    path = path_of(3, 1)
    x, noise, tau = draw()
    x_t = path.interpolate(x.float(), noise.float(), tau)
    assert x_t.dtype == torch.float32
    assert path.velocity_from_x(x.float(), x_t, tau).dtype == torch.float32


# --- the clamp of the noise alone, and the weight of an error of x --------------------------------------------------


def clamped_path(num_stages: int, stage: int, clamp: Any, t_eps: float = 0.05) -> StagePath:
    return Cascade(image_size=8 * 2 ** (num_stages - 1), num_stages=num_stages, t_eps=t_eps, clamp=clamp).path(stage)


@pytest.mark.parametrize("t_eps", [0.05, 0.2])
@pytest.mark.parametrize(("num_stages", "stage"), LAST_STAGES)
def test_the_clamp_of_the_noise_leaves_the_drift(num_stages: int, stage: int, t_eps: float) -> None:
    """The noise that a state holds beside x shrinks by sigma / max(sigma, t_eps), the drift does not."""
    path = clamped_path(num_stages, stage, "noise", t_eps)
    x, noise, _ = draw(8)
    tau = torch.linspace(0.2, 1.0, 16, dtype=torch.float64)
    sigma = path.sigma(tau).view(-1, 1, 1, 1)
    assert (sigma < t_eps).any() and (sigma > t_eps).any()
    got = path.velocity_from_x(x, path.interpolate(x, noise, tau), tau)
    drift = path.velocity(x, torch.zeros_like(x))
    expected = drift - (path.end - path.start) * noise * sigma / sigma.clamp(min=t_eps)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
    # The formula of DESIGN section 3, at a state that does not belong to x.
    wide, s, e = tau.view(-1, 1, 1, 1), path.start, path.end
    px = project(x)
    written = e * x - s * px - (e - s) * (noise - wide * e * x - (1 - wide) * s * px) / sigma.clamp(min=t_eps)
    torch.testing.assert_close(path.velocity_from_x(x, noise, tau), written, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_both_clamps_agree_until_they_act(num_stages: int, stage: int) -> None:
    x, x_t, tau = draw(9)
    both = [clamped_path(num_stages, stage, clamp).velocity_from_x(x, x_t, tau) for clamp in ("quotient", "noise")]
    torch.testing.assert_close(*both, atol=1e-9, rtol=0)


def test_the_clamp_of_the_noise_with_one_stage() -> None:
    """s = 0 and e = 1: x - (x_t - t x) / max(1 - t, t_eps), which is not JiT's formula below t_eps."""
    x, x_t, _ = draw(10)
    t = torch.linspace(0, 1, 16, dtype=torch.float64)
    wide = t.view(-1, 1, 1, 1)
    got = clamped_path(1, 0, "noise").velocity_from_x(x, x_t, t)
    torch.testing.assert_close(got, x - (x_t - wide * x) / (1 - wide).clamp(min=0.05))
    assert (got - path_of(1, 0).velocity_from_x(x, x_t, t))[-1].abs().max() > 0.1


@pytest.mark.parametrize("clamp", ["quotient", "noise"])
@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_the_weight_of_an_error_against_the_jacobian(num_stages: int, stage: int, clamp: str) -> None:
    """w is the mean square of the singular values of dv/dx, which scales an error of equal size everywhere."""
    path = clamped_path(num_stages, stage, clamp)
    taus = torch.tensor([0.0, 0.3, 0.8, 0.97, 1.0], dtype=torch.float64)
    for tau, weight in zip(taus, path.x_error_weight(taus), strict=True):
        x_t = torch.randn(1, 1, 4, 4, dtype=torch.float64)

        def velocity(x: Tensor, x_t: Tensor = x_t, tau: Tensor = tau) -> Tensor:
            return path.velocity_from_x(x.view(1, 1, 4, 4), x_t, tau[None]).flatten()

        jacobian = torch.autograd.functional.jacobian(velocity, torch.randn(16, dtype=torch.float64))
        torch.testing.assert_close(weight, jacobian.square().sum() / 16, atol=1e-9, rtol=1e-9)


def test_weights_of_a_cascade_of_two_stages() -> None:
    """By hand: stage 0 has sigma = 1 - tau/2 and e = 1/2; the last stage 1 / (1 - tau)^2, until sigma = t_eps."""
    tau = torch.tensor([0.0, 0.5, 0.9, 1.0], dtype=torch.float64)
    expected = 0.25 / (1 - tau / 2) ** 2
    torch.testing.assert_close(path_of(2, 0).x_error_weight(tau), expected)
    last = path_of(2, 1).x_error_weight(tau)
    torch.testing.assert_close(last[:3], 1 / (1 - tau[:3]) ** 2)
    assert last[3].item() == pytest.approx((2 / 3 / 0.05) ** 2)


def test_an_unknown_clamp_is_refused() -> None:
    with pytest.raises(ValueError, match="clamp='all' must be one of quotient, noise"):
        clamped_path(2, 1, "all")
