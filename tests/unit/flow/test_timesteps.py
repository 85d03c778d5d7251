from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pixelflow.flow import Cascade, FlowLogitNormalTimesteps, LogitNormalTimesteps, UniformTimesteps, time_grid
from pixelflow.types import Timesteps


def drawn(timesteps: Timesteps, uniform: Tensor, *, start: float = 0.0, end: float = 1.0) -> Tensor:
    """tau of images of one stage, whose window is the whole flow unless stated."""
    return timesteps(uniform, torch.full_like(uniform, start), torch.full_like(uniform, end))


@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_every_training_time_is_equally_likely(steps: int) -> None:
    uniform = (torch.arange(10 * steps, dtype=torch.float64) + 0.5) / (10 * steps)
    tau = drawn(UniformTimesteps(num_train_timesteps=steps), uniform)
    values, counts = tau.unique(return_counts=True)
    assert torch.equal(values, torch.arange(steps, dtype=torch.float64) / steps)
    assert counts.eq(10).all()


def test_ends_of_the_training_times() -> None:
    tau = drawn(UniformTimesteps(), torch.tensor([0.0, 0.0009, 1 - 1e-12], dtype=torch.float64))
    assert tau.tolist() == [0.0, 0.0, 0.999]


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("grid", ["reference", "uniform"])
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_grids_rise_from_zero_to_one(num_steps: int, grid: str, shift: float) -> None:
    tau = time_grid(num_steps, grid=grid, shift=shift)  # type: ignore[arg-type]
    assert tau.shape == (num_steps + 1,)
    assert tau.dtype == torch.float64
    assert (tau[0], tau[-1]) == (0, 1)
    assert tau.diff().gt(0).all()


def test_the_reference_grid_ends_with_a_short_step() -> None:
    torch.testing.assert_close(time_grid(4), torch.tensor([0, 0.333, 0.666, 0.999, 1], dtype=torch.float64))


def test_the_uniform_grid_has_equal_steps() -> None:
    assert time_grid(4, grid="uniform").tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_shift_places_more_steps_near_the_noise() -> None:
    tau = time_grid(2, grid="uniform", shift=3.0)
    assert tau[1].item() == pytest.approx(0.5 / (3 - 2 * 0.5))
    assert time_grid(10, shift=3.0)[5] < time_grid(10)[5]


# --- logit-normal -------------------------------------------------------------------------------------------------


def test_logit_normal_against_its_definition() -> None:
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)
    tau = drawn(LogitNormalTimesteps(), torch.special.ndtr(z))
    torch.testing.assert_close(tau, torch.sigmoid(0.8 * z - 0.8))


def test_the_share_of_times_below_the_gate_of_pixelgen() -> None:
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert (drawn(LogitNormalTimesteps(), uniform) < 0.3).double().mean().item() == pytest.approx(0.476, abs=5e-4)


def test_shift_and_clamp() -> None:
    uniform = torch.tensor([0.0, 0.3, 0.9, 1 - 1e-16], dtype=torch.float64)
    plain = drawn(LogitNormalTimesteps(), uniform)
    assert plain[0] == 0
    shifted = drawn(LogitNormalTimesteps(shift=3.0), uniform)
    torch.testing.assert_close(shifted, plain / (3 - 2 * plain))
    clamped = drawn(LogitNormalTimesteps(low=0.2, high=0.6), uniform)
    torch.testing.assert_close(clamped, plain.clamp(0.2, 0.6))


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"shift": 0.0}, {"low": 0.5, "high": 0.5}, {"high": 1.5}])
def test_invalid_arguments_of_logit_normal_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        LogitNormalTimesteps(**settings)


# --- logit-normal over the whole flow ------------------------------------------------------------------------------

WINDOWS = [(stage.path.start, stage.path.end) for stage in Cascade(image_size=32, num_stages=3).stages]


def numerical_cdf(tau: np.ndarray, start: float, end: float, *, mean: float, std: float) -> np.ndarray:
    """The distribution function of tau in a window, by summing the density of the logit-normal share over a grid."""
    grid = np.linspace(start, end, 400_001)
    inner = np.clip(grid, 1e-12, 1 - 1e-12)
    logit = np.log(inner / (1 - inner))
    density = np.exp(-0.5 * ((logit - mean) / std) ** 2) / (inner * (1 - inner))
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(start + tau * (end - start), grid, total / total[-1])


@pytest.mark.parametrize(("start", "end"), WINDOWS)
@pytest.mark.parametrize(("mean", "std"), [(-0.8, 0.8), (0.5, 1.5), (-3.0, 0.4)])
def test_the_truncated_logit_normal_distribution(start: float, end: float, mean: float, std: float) -> None:
    """In the last case the window of the last stage lies 8 standard deviations above the mean."""
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tau = drawn(FlowLogitNormalTimesteps(mean=mean, std=std), uniform, start=start, end=end)
    assert tau.min() >= 0 and tau.max() <= 1
    test = stats.kstest(tau.numpy(), lambda values: numerical_cdf(values, start, end, mean=mean, std=std))
    assert test.pvalue > 0.01
    uniform_test = stats.kstest(tau.numpy(), "uniform")
    assert uniform_test.pvalue < 1e-6  # so that the test above can fail


@pytest.mark.parametrize(("start", "end"), WINDOWS)
def test_truncated_times_rise_from_zero_to_one(start: float, end: float) -> None:
    uniform = torch.tensor([0.0, 1e-9, 0.2, 0.5, 0.9, 1 - 1e-9, 1.0], dtype=torch.float64)
    tau = drawn(FlowLogitNormalTimesteps(), uniform, start=start, end=end)
    assert tau[0].item() == pytest.approx(0, abs=1e-9) and tau[-1].item() == pytest.approx(1, abs=1e-9)
    assert tau.diff().gt(0).all() and tau.isfinite().all()


def test_one_stage_is_the_logit_normal_distribution_bit_for_bit() -> None:
    uniform = torch.cat([torch.zeros(1), torch.rand(1000), torch.ones(1)]).double()
    got = drawn(FlowLogitNormalTimesteps(mean=0.3, std=1.2), uniform)
    assert torch.equal(got, drawn(LogitNormalTimesteps(mean=0.3, std=1.2), uniform))


def test_every_image_has_the_window_of_its_stage() -> None:
    uniform = torch.rand(3, dtype=torch.float64)
    starts, ends = (torch.tensor(shares, dtype=torch.float64) for shares in zip(*WINDOWS, strict=True))
    together = FlowLogitNormalTimesteps()(uniform, starts, ends)
    alone = [
        drawn(FlowLogitNormalTimesteps(), uniform[i : i + 1], start=start, end=end)
        for i, (start, end) in enumerate(WINDOWS)
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"std": float("nan")}, {"mean": float("inf")}])
def test_invalid_arguments_of_the_truncated_distribution_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        FlowLogitNormalTimesteps(**settings)
