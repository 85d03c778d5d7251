"""Only the images and steps that need two passes pay for two; every solver through the sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pixelflow.flow import ConstantGuidance, IntervalGuidance, StageIntervalGuidance, StageWiseGuidance, XPrediction
from pixelflow.sampling import Sampler
from pixelflow.solvers import AdamsBashforth, AdaptiveRungeKutta, Euler, FixedRungeKutta, Heun
from pixelflow.types import Condition
from tests.tiny import tiny_pixelflow
from tests.unit.sampling.test_sampler import NUM_CLASSES, Oracle, draw, make_sampler


def fine_reference(sampler: Sampler, ids: list[int]) -> torch.Tensor:
    fine = make_sampler(sampler.backbone, sampler.guidance, prediction=sampler.prediction)
    fine.solver = FixedRungeKutta(method="rk4", num_steps=40, num_stages=3, grid="uniform", timesteps="trained")
    return draw(fine, ids).x


SOLVERS = {
    "euler": (Euler(num_steps=200, num_stages=3, grid="uniform"), 2e-2),
    "heun": (Heun(num_steps=60, num_stages=3), 5e-3),
    "adams2": (AdamsBashforth(num_steps=60, num_stages=3), 5e-3),
    "adams4": (AdamsBashforth(num_steps=60, num_stages=3, order=4, startup="runge_kutta"), 5e-3),
    "midpoint": (FixedRungeKutta(method="midpoint", num_steps=40, num_stages=3, timesteps="trained"), 5e-3),
    "dopri5": (AdaptiveRungeKutta(method="dopri5", timesteps="trained"), 2e-2),
    "dopri5 per image": (AdaptiveRungeKutta(method="dopri5", per_image=True, timesteps="trained"), 2e-2),
    "bosh3 per image": (AdaptiveRungeKutta(method="bosh3", per_image=True, timesteps="trained"), 2e-2),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_comes_to_the_same_images(name: str) -> None:
    model, (solver, tolerance) = tiny_pixelflow().eval(), SOLVERS[name]
    sampler = make_sampler(model, StageWiseGuidance(scale=1.5, num_stages=3), solver=solver)
    got, expected = draw(sampler, [0, 1]).x, fine_reference(sampler, [0, 1])
    assert (got - expected).abs().max() < tolerance * expected.abs().max()


def test_heun_is_guided_as_at_the_start_of_the_step() -> None:
    """On steps 0, 0.25, 0.5, 0.75, 1: (0.25, 0.5] guides the step from 0.5, both its evaluations, and no other."""
    oracle, grid = Oracle(), {"num_steps": 4, "num_stages": 3, "grid": "uniform"}
    draw(make_sampler(oracle, IntervalGuidance(scale=2.0, low=0.25, high=0.5), solver=Heun(**grid)), [1])
    assert [len(labels) for _, _, labels in oracle.calls[:7]] == [1, 1, 1, 1, 2, 2, 1]
    oracle = Oracle()
    draw(make_sampler(oracle, IntervalGuidance(scale=2.0, low=0.25, high=0.5), solver=AdamsBashforth(**grid)), [1])
    assert [len(labels) for _, _, labels in oracle.calls[:4]] == [1, 1, 2, 1]


def test_stage_table_times_interval_pays_for_its_steps_alone() -> None:
    oracle = Oracle()
    guidance = StageIntervalGuidance(scale=2.0, num_stages=3, low=0.4, high=0.5)
    samples = draw(make_sampler(oracle, guidance), [1])
    # Stage 0 has scale 1; of the other stages' steps only tau = 1/2 of the last lies in the interval.
    assert [len(labels) for _, _, labels in oracle.calls] == [1] * 6 + [2]
    assert samples.passes == 8


def test_images_without_a_condition_cost_one_pass() -> None:
    oracle = Oracle(predicts_x=True)
    sampler = make_sampler(oracle, ConstantGuidance(scale=2.0), prediction=XPrediction())
    labels = Condition(torch.tensor([2, NUM_CLASSES, 4]))
    samples = sampler.sample(labels, sampler.keyed_noise([0, 1, 2], seed=3))
    assert oracle.calls[0][2] == [NUM_CLASSES, NUM_CLASSES, 2, NUM_CLASSES, 4]
    assert samples.passes == pytest.approx(7 * 5 / 3)
    guided = sampler.sample(labels[[0]], sampler.keyed_noise([0], seed=3)).x
    torch.testing.assert_close(samples.x[:1], guided, atol=1e-6, rtol=0)


def test_steps_of_its_own_take_their_own_guidance() -> None:
    """With steps per image an interval begins and ends for each image at its own time."""
    seen: list[tuple[float, bool]] = []

    class Recorder(IntervalGuidance):
        def scale(self, stage: int, tau: float) -> float:
            seen.append((tau, super().scale(stage, tau) != 1))
            return super().scale(stage, tau)

    oracle = Oracle(predicts_x=True)
    sampler = make_sampler(
        oracle,
        Recorder(scale=2.0, low=0.3, high=0.6),
        prediction=XPrediction(),
        solver=AdaptiveRungeKutta(method="bosh3", per_image=True),
    )
    samples = draw(sampler, [1, 2, 3])
    guided = sum(flag for _, flag in seen)
    assert 0 < guided < len(seen)
    assert sum(len(labels) for _, _, labels in oracle.calls) == len(seen) + guided
    assert samples.passes == pytest.approx((len(seen) + guided) / 3)


@pytest.mark.parametrize("stage_batch", [[4, 2, 1], [1, 1, 3]])
def test_batch_per_stage(stage_batch: list[int]) -> None:
    oracle = Oracle()
    draw(make_sampler(oracle, stage_batch=stage_batch), [1, 2, 3, 4])
    for side, most in zip((4, 8, 16), stage_batch, strict=True):
        assert max(len(labels) for s, _, labels in oracle.calls if s == side) == min(4, most)
    model = tiny_pixelflow().eval()
    split, whole = (draw(make_sampler(model, **s), [1, 2, 3, 4]) for s in ({"stage_batch": stage_batch}, {}))
    torch.testing.assert_close(split.x, whole.x, atol=1e-5, rtol=0)
    assert split.passes == whole.passes


def test_batch_per_stage_must_fit() -> None:
    with pytest.raises(ValueError, match="stage_batch has 2 entries for 3 stages"):
        make_sampler(Oracle(), stage_batch=[1, 2])


def test_observer_sees_every_evaluation_and_the_end_of_each_stage() -> None:
    seen: list[tuple[int, Any, int]] = []
    evaluated: list[tuple[int, Any, int]] = []
    sampler = make_sampler(Oracle())
    sampler.sample(
        Condition(torch.tensor([1])),
        sampler.keyed_noise([1], seed=0),
        observe=lambda stage, tau, x: seen.append((stage, round(float(tau), 3), x.shape[-1])),
        evaluated=lambda stage, tau, x, velocity: evaluated.append((stage, round(float(tau), 3), velocity.shape[-1])),
    )
    expected = [(0, [0, 0.5, 1]), (1, [0, 0.333, 0.667, 1]), (2, [0, 0.5, 1])]
    assert seen == [(stage, tau, 4 * 2**stage) for stage, taus in expected for tau in taus]
    assert evaluated == [entry for entry in seen if entry[1] < 1]
