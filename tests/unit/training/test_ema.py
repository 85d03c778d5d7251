from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelflow.training.ema import EMA, gamma_of, posthoc, posthoc_weights


def values(*numbers: float) -> list[Tensor]:
    return [torch.tensor([number]) for number in numbers]


def test_against_a_hand_computation() -> None:
    ema = EMA(decay=0.5, more_decays=[0.9])
    ema.attach(values(1.0))
    expected = {"ema": 1.0, "ema_0.9": 1.0}
    for step, value in enumerate([2.0, -3.0, 5.0, 8.0, 0.5, 7.0, 1.0, 4.0, 6.0], start=1):
        ema.update(values(value), step)
        for name, limit in {"ema": 0.5, "ema_0.9": 0.9}.items():
            decay = min(limit, (1 + step) / (10 + step))
            expected[name] = decay * expected[name] + (1 - decay) * value
            assert ema.averages[name][0].item() == pytest.approx(expected[name], rel=1e-6)
    assert ema.decay("ema", 9) == 0.5  # the limit was reached, from 2/11 on


def test_late_steps_use_the_decay_itself() -> None:
    ema = EMA(decay=0.9)
    ema.attach(values(0.0))
    ema.update(values(1.0), 1000)
    assert ema.averages["ema"][0].item() == pytest.approx(0.1)


def test_without_the_ramp_the_factor_is_constant() -> None:
    """As in the papers' releases: 0.9999 from the first step on, of every exponential average."""
    ema = EMA(decay=0.9999, more_decays=[0.5], power=[0.1], ramp=False)
    assert [ema.decay("ema", step) for step in (1, 2, 100, 10**6)] == [0.9999] * 4
    assert ema.decay("ema_0.5", 1) == 0.5
    assert ema.decay("power_0.1", 1) == 0  # the profile of a power average is independent of the ramp
    ema.attach(values(1.0))
    for step in (1, 2, 3):
        ema.update(values(0.0), step)
    assert ema.averages["ema"][0].item() == pytest.approx(0.9999**3)


def test_a_decay_of_zero_follows_the_model() -> None:
    ema = EMA(decay=0.0)
    ema.attach(values(0.0))
    ema.update(values(3.0), 1)
    assert ema.averages["ema"][0].item() == 3.0


def test_averages_are_copies_without_gradients() -> None:
    weights = [torch.nn.Parameter(torch.ones(2))]
    ema = EMA(decay=0.9, power=[0.1])
    ema.attach(weights)
    with torch.no_grad():
        weights[0].add_(1)
    for averaged in ema.averages.values():
        assert torch.equal(averaged[0], torch.ones(2)) and not averaged[0].requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": -0.1}, "decay=-0.1 must be in"),
        ({"decay": 1.0}, "decay=1.0 must be in"),
        ({"decay": 0.9, "more_decays": [0.5, 1.5]}, "more_decays=1.5 must be in"),
        ({"decay": 0.9, "power": [0.5]}, r"power=0.5 must be in \(0, 0.28\]"),
        ({"decay": 0.9, "snapshot_every": 5}, "snapshot_every needs power="),
        ({"decay": 0.9, "snapshot_every": -5}, "snapshot_every=-5 must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMA(**settings)


# --- power functions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_the_papers(width: float, gamma: float) -> None:
    """Karras et al. 2024, section 3.1, where they name both."""
    assert gamma_of(width) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("width", [0.02, 0.1, 0.25])
def test_gamma_gives_the_width(width: float) -> None:
    """By numerical integration of the profile."""
    gamma, x = gamma_of(width), np.linspace(0, 1, 200_001)
    density = (gamma + 1) * x**gamma
    mean = np.trapezoid(x * density, x)
    assert np.sqrt(np.trapezoid((x - mean) ** 2 * density, x)) == pytest.approx(width, rel=1e-4)


def run_of(width: float, weights: Tensor) -> Tensor:
    """A power average kept directly over all rows."""
    ema = EMA(decay=0.0, power=[width])
    ema.attach([torch.zeros(weights.shape[1])])
    for step, row in enumerate(weights, start=1):
        ema.update([row], step)
    return ema.averages[f"power_{width:g}"][0]


def test_a_power_average_has_its_profile() -> None:
    """Step i of n weighs (i^(g+1) - (i-1)^(g+1)) / n^(g+1): the profile's area over that step."""
    n, gamma = 50, gamma_of(0.1)
    found = run_of(0.1, torch.eye(n))
    edges = np.arange(n + 1) ** (gamma + 1) / n ** (gamma + 1)
    np.testing.assert_allclose(found.numpy(), np.diff(edges), atol=2e-6)


@pytest.mark.parametrize(("width", "step", "tolerance"), [(0.05, 1024, 1e-6), (0.07, 1024, 0.01), (0.15, 1024, 0.03),
                                                          (0.08, 768, 0.02)])  # fmt: skip
def test_posthoc_equals_the_average_kept_directly(width: float, step: int, tolerance: float) -> None:
    """Weights that walk at random, 16 snapshots of two widths; the error is measured against the walk's own size."""
    walk = torch.randn(1024, 200, generator=torch.Generator().manual_seed(0)).cumsum(0) * 0.05
    ema = EMA(decay=0.0, power=[0.05, 0.10], snapshot_every=64)
    ema.attach([torch.zeros(200)])
    snapshots = {}
    for number, row in enumerate(walk, start=1):
        ema.update([row], number)
        if number % 64 == 0:
            snapshots |= {(number, name): {"w": ema.averages[name][0].clone()} for name in ema.snapshot_names}
    direct = run_of(width, walk[:step])
    rebuilt = posthoc(snapshots, step=step, width=width)["w"]
    error = (rebuilt - direct).norm() / direct.norm()
    assert error < tolerance
    nearest = min((snapshots[step, name]["w"] for name in ema.snapshot_names), key=lambda w: (w - direct).norm())
    if width not in (0.05, 0.10):
        assert error < 0.5 * (nearest - direct).norm() / direct.norm()


def test_a_stored_average_is_its_own_reconstruction() -> None:
    stored = [(64.0, gamma_of(0.05)), (128.0, gamma_of(0.05)), (128.0, gamma_of(0.1))]
    np.testing.assert_allclose(posthoc_weights(stored, step=128, width=0.1), [0, 0, 1], atol=1e-6)


def test_posthoc_needs_two_snapshots() -> None:
    with pytest.raises(ValueError, match="1 snapshots of power averages up to step 10"):
        posthoc({(5, "power_0.1"): {}, (20, "power_0.1"): {}}, step=10, width=0.1)
