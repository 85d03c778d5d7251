from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.conditioning import ClassLabel
from pixelflow.flow import (
    Cascade,
    ConstantGuidance,
    IntervalGuidance,
    NoGuidance,
    StageWiseGuidance,
    VelocityPrediction,
    XPrediction,
)
from pixelflow.sampling import Sampler, Samples, to_uint8
from pixelflow.solvers import Euler
from pixelflow.types import Backbone, BackboneOutput, Condition
from tests.tiny import tiny_pixelflow

NUM_CLASSES = 5
CASCADE = Cascade(image_size=16, num_stages=3)


class Oracle:
    """A network that sees through the noise: every image of class k is the constant k/10, the null image is -1.

    On the path of that image the velocity and the clean image are known, so Euler is exact with any number of steps.
    """

    patch_size, fixed_resolution = 1, None

    def __init__(self, *, predicts_x: bool = False) -> None:
        self.predicts_x = predicts_x
        self.calls: list[tuple[int, float, list[int]]] = []

    def __call__(
        self, x_t: Any, timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        assert timestep.shape == (len(x_t),)
        labels = condition.class_label
        self.calls.append((x_t.shape[-1], timestep[0].item(), labels.tolist()))
        x = torch.where(labels == NUM_CLASSES, -1.0, labels / 10)[:, None, None, None].expand_as(x_t)
        if self.predicts_x:
            return BackboneOutput(x)
        path = next(s.path for s in CASCADE.stages if s.resolution == x_t.shape[-1])
        stage = CASCADE.stages[path.stage]
        tau = (timestep - stage.first_timestep) / (stage.last_timestep - stage.first_timestep) * 0.999
        return BackboneOutput(path.velocity_from_x(x, x_t, tau))


def make_sampler(backbone: Backbone, guidance: Any = None, **settings: Any) -> Sampler:
    parts: dict[str, Any] = {
        "cascade": CASCADE,
        "prediction": VelocityPrediction(),
        "solver": Euler(num_steps=[2, 3, 2], num_stages=3, grid="uniform"),
        "guidance": guidance or NoGuidance(),
        "conditioning": ClassLabel(num_classes=NUM_CLASSES),
        "channels": 1,
    }
    return Sampler(backbone=backbone, **(parts | settings))


def classes(ids: Sequence[int]) -> Condition:
    return Condition(torch.tensor(ids) % NUM_CLASSES)


def draw(sampler: Sampler, ids: Sequence[int]) -> Samples:
    return sampler.sample(classes(ids), sampler.keyed_noise(ids, seed=3))


# --- numbers of an image do not depend on its batch ---------------------------------------------------------------


@pytest.mark.parametrize("guidance", [None, ConstantGuidance(scale=2.0)])
def test_same_ids_give_the_same_images_in_any_batch(guidance: Any) -> None:
    sampler = make_sampler(tiny_pixelflow().eval(), guidance)
    ids = list(range(100, 164))
    whole = draw(sampler, ids)
    assert whole.x.std() > 0.1
    for size, batches in ((1, 3), (7, 2)):
        for start in range(0, size * batches, size):
            part = ids[start : start + size]
            for got, expected in zip(draw(sampler, part).stage_ends, whole.stage_ends, strict=True):
                torch.testing.assert_close(got, expected[start : start + size], atol=1e-5, rtol=0)
    shuffled = [ids[40], ids[3], ids[11]]
    torch.testing.assert_close(draw(sampler, shuffled).x, whole.x[[40, 3, 11]], atol=1e-5, rtol=0)


def test_noise_is_bit_for_bit_the_same_in_any_batch() -> None:
    sampler, ids = make_sampler(Oracle()), list(range(64))
    for stage in range(3):
        whole = sampler.keyed_noise(ids, seed=0)(stage)
        for size in (1, 7):
            parts = [sampler.keyed_noise(ids[i : i + size], seed=0)(stage) for i in range(0, 64, size)]
            assert torch.equal(torch.cat(parts), whole)
        assert not torch.equal(sampler.keyed_noise(ids, seed=1)(stage), whole)


def test_noise_of_stages_is_independent_and_correlated_where_it_must_be() -> None:
    noise = make_sampler(Oracle(), channels=3).keyed_noise(range(500), seed=0)
    assert noise(0).shape == (500, 3, 4, 4)
    fine, finest = noise(1), noise(2)
    assert finest.shape == (500, 3, 16, 16)
    assert (fine * finest[..., :8, :8]).mean().abs() < 0.02
    assert noise(0).var().item() == pytest.approx(1, abs=0.05)
    neighbours = (finest[..., 0::2] * finest[..., 1::2]).mean().item()
    assert neighbours == pytest.approx(CASCADE.gamma, abs=0.02)


# --- the stage loop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("predicts_x", [False, True])
def test_a_network_that_knows_the_image_leads_to_it(predicts_x: bool) -> None:
    prediction = XPrediction() if predicts_x else VelocityPrediction()
    samples = draw(make_sampler(Oracle(predicts_x=predicts_x), prediction=prediction), [3, 9, 6])
    expected = torch.tensor([0.3, 0.4, 0.1])[:, None, None, None].expand(3, 1, 16, 16)
    torch.testing.assert_close(samples.x, expected, atol=1e-4, rtol=0)
    assert [end.shape[-1] for end in samples.stage_ends] == [4, 8, 16]
    assert samples.stage_ends[-1] is samples.x


def test_the_backbone_is_told_the_times_of_the_solver() -> None:
    oracle = Oracle()
    sampler = make_sampler(oracle, solver=Euler(num_steps=[1, 2, 1], num_stages=3))
    draw(sampler, [0])
    expected = [(4, 0), (8, 256), (8, 613.642), (16, 614)]
    assert [(side, pytest.approx(t, abs=1e-3)) for side, t in expected] == [(s, t) for s, t, _ in oracle.calls]


def test_guidance_goes_beyond_the_condition() -> None:
    """One stage on x-space: null is -1, class 4 is 0.4, so scale 2 leads to -1 + 2*1.4."""
    cascade = Cascade(image_size=4, num_stages=1)
    sampler = make_sampler(
        Oracle(predicts_x=True),
        ConstantGuidance(scale=2.0),
        cascade=cascade,
        prediction=XPrediction(),
        solver=Euler(num_steps=10, num_stages=1, grid="uniform"),
    )
    torch.testing.assert_close(draw(sampler, [4]).x, torch.full((1, 1, 4, 4), 1.8), atol=1e-4, rtol=0)


# --- what guidance costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guidance", [NoGuidance(), ConstantGuidance(scale=1.0), StageWiseGuidance(scale=1, num_stages=3)]
)
def test_guidance_scale_one_costs_one_pass(guidance: Any) -> None:
    oracle = Oracle()
    samples = draw(make_sampler(oracle, guidance), [1, 2])
    assert [labels for _, _, labels in oracle.calls] == [[1, 2]] * 7
    assert (samples.nfe, samples.passes) == (7, 7)


def test_other_scales_cost_two_passes_in_one_call() -> None:
    oracle = Oracle()
    samples = draw(make_sampler(oracle, ConstantGuidance(scale=1.5)), [1, 2])
    assert [labels for _, _, labels in oracle.calls] == [[NUM_CLASSES, NUM_CLASSES, 1, 2]] * 7
    assert (samples.nfe, samples.passes) == (7, 14)


def test_only_the_guided_stages_and_times_cost_two_passes() -> None:
    oracle = Oracle()
    samples = draw(make_sampler(oracle, StageWiseGuidance(scale=2.0, num_stages=3)), [1])
    assert [(side, len(labels)) for side, _, labels in oracle.calls] == [(4, 1)] * 2 + [(8, 2)] * 3 + [(16, 2)] * 2
    assert (samples.nfe, samples.passes) == (7, 2 + 6 + 4)
    samples = draw(make_sampler(Oracle(), IntervalGuidance(scale=2.0, low=0.4, high=0.5)), [1])
    assert (samples.nfe, samples.passes) == (7, 9)  # tau = 1/2 in two stages of two steps


def test_passes_are_counted_anew_for_every_batch() -> None:
    sampler = make_sampler(Oracle(), ConstantGuidance(scale=1.5))
    assert draw(sampler, [1]).passes == draw(sampler, [2]).passes == 14


# --- precision and output -----------------------------------------------------------------------------------------


def test_bf16_is_close_to_float32_and_leaves_float32() -> None:
    model = tiny_pixelflow().eval()
    full, half = (draw(make_sampler(model, precision=p), [0, 1]).x for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.1 * full.abs().max()


def test_no_gradient_is_recorded() -> None:
    assert not draw(make_sampler(tiny_pixelflow()), [0]).x.requires_grad


def test_to_uint8() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, -1 + 2 * 7.4 / 255, -1 + 2 * 7.6 / 255])
    got = to_uint8(x)
    assert got.dtype == torch.uint8
    assert got.tolist() == [0, 0, 128, 255, 255, 7, 8]
    assert torch.equal(to_uint8(torch.arange(256) / 127.5 - 1), torch.arange(256, dtype=torch.uint8))
