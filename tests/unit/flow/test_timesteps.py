from __future__ import annotations

import pytest
import torch

from pixelflow.flow import LogitNormalTimesteps, UniformTimesteps, time_grid


@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_every_training_time_is_equally_likely(steps: int) -> None:
    uniform = (torch.arange(10 * steps, dtype=torch.float64) + 0.5) / (10 * steps)
    tau = UniformTimesteps(num_train_timesteps=steps)(uniform)
    values, counts = tau.unique(return_counts=True)
    assert torch.equal(values, torch.arange(steps, dtype=torch.float64) / steps)
    assert counts.eq(10).all()


def test_ends_of_the_training_times() -> None:
    tau = UniformTimesteps()(torch.tensor([0.0, 0.0009, 1 - 1e-12], dtype=torch.float64))
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
    tau = LogitNormalTimesteps()(torch.special.ndtr(z))
    torch.testing.assert_close(tau, torch.sigmoid(0.8 * z - 0.8))


def test_the_share_of_times_below_the_gate_of_pixelgen() -> None:
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert (LogitNormalTimesteps()(uniform) < 0.3).double().mean().item() == pytest.approx(0.476, abs=5e-4)


def test_shift_and_clamp() -> None:
    uniform = torch.tensor([0.0, 0.3, 0.9, 1 - 1e-16], dtype=torch.float64)
    plain = LogitNormalTimesteps()(uniform)
    assert plain[0] == 0
    shifted = LogitNormalTimesteps(shift=3.0)(uniform)
    torch.testing.assert_close(shifted, plain / (3 - 2 * plain))
    clamped = LogitNormalTimesteps(low=0.2, high=0.6)(uniform)
    torch.testing.assert_close(clamped, plain.clamp(0.2, 0.6))


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"shift": 0.0}, {"low": 0.5, "high": 0.5}, {"high": 1.5}])
def test_invalid_arguments_of_logit_normal_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        LogitNormalTimesteps(**settings)
