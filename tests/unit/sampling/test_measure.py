from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.utils.flop_counter import FlopCounterMode

from pixelflow.backbones import PixelFlow
from pixelflow.flow import StageWiseGuidance
from pixelflow.nn.flops import forward_flops, matrix_rate, stage_flops
from pixelflow.sampling.measure import measure_batch
from pixelflow.sampling.produce import Made, produce
from pixelflow.sampling.settings import SamplerSettings, SampleSet
from pixelflow.types import Condition
from tests.tiny import tiny_pixelflow
from tests.unit.sampling.test_sampler import NUM_CLASSES, Oracle, make_sampler

XL = {"patch_size": 4, "depth": 28, "num_heads": 16, "head_dim": 72, "num_classes": 1000}


def by_hand(size: int, channels: int, settings: dict[str, int]) -> int:
    """Two operations for each weight that a token or an image meets, and four L^2 W of attention for each block."""
    width = settings["num_heads"] * settings["head_dim"]
    tokens, patch = (size // settings["patch_size"]) ** 2, channels * settings["patch_size"] ** 2
    block = tokens * 24 * width**2 + 4 * tokens**2 * width + 12 * width**2
    embedders = 2 * 2 * (256 * width + width**2)
    return settings["depth"] * block + embedders + 4 * width**2 + 2 * 2 * tokens * patch * width


def test_operations_of_a_forward_pass() -> None:
    with torch.device("meta"):
        model = PixelFlow(**XL)
    got = forward_flops(model, 256, 3)
    assert got == by_hand(256, 3, XL)
    # The paper's setting: Euler 30, guided; 81 % of about 430 TFLOP in the last of four stages.
    stages = [by_hand(side, 3, XL) * 30 * (1 if side == 32 else 2) for side in (32, 64, 128, 256)]
    assert sum(stages) == pytest.approx(430e12, rel=0.01)
    assert stages[-1] / sum(stages) == pytest.approx(0.81, abs=0.01)


class Slow(Oracle):
    """Takes 10 ms a call."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.01)
        return super().__call__(*args, **kwargs)


def test_costs_of_a_batch() -> None:
    sampler = make_sampler(Slow(), StageWiseGuidance(scale=2.0, num_stages=3))
    backbone, keyed = sampler.backbone, sampler.keyed_noise([0, 1], seed=0)

    def noise(stage: int) -> Any:
        time.sleep(0.02)
        return keyed(stage)

    start = time.perf_counter()
    costs = measure_batch(sampler, Condition(torch.tensor([1, 2])), noise)
    wall = time.perf_counter() - start
    assert sampler.backbone is backbone
    assert [s.resolution for s in costs.stages] == [4, 8, 16]
    assert [s.nfe for s in costs.stages] == [2, 3, 2]
    assert [s.passes for s in costs.stages] == [2, 6, 4] and costs.passes == 12
    for stage in costs.stages:
        assert stage.seconds >= 0.01 * stage.nfe
    assert costs.noise >= 0.06 and costs.renoise >= 0
    parts = costs.noise + costs.renoise + sum(s.seconds for s in costs.stages)
    assert parts == pytest.approx(costs.total, rel=1e-6) and costs.total <= wall


def test_matrix_rate_is_plausible() -> None:
    rate = matrix_rate(64, dtype=torch.float32, device=torch.device("cpu"), tokens=256, repeats=3)
    assert 1e8 < rate < 1e14


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_counted_operations_are_those_of_the_real_forward_passes(scale: float) -> None:
    """Stage 0 is not guided; in the others, the null class needs one pass and the others two."""
    guidance = StageWiseGuidance(scale=scale, num_stages=3)
    sampler = make_sampler(tiny_pixelflow().eval(), guidance, attention=[SDPBackend.MATH] * 3)
    images = SampleSet(num_samples=3, classes=[1, 2, NUM_CLASSES], seed=0)
    with FlopCounterMode(display=False) as counter:
        made = produce(sampler, lambda *_: None, range(3), images=images, settings=SamplerSettings())
    costs = made.per_image(stage_flops(tiny_pixelflow().to("meta"), sampler.cascade, sampler.channels))
    passes = [2, 3 * 5 / 3, 2 * 5 / 3] if scale > 1 else [2, 3, 2]
    assert costs["forward_passes_per_image"] == pytest.approx(sum(passes)) and costs["nfe"] == 7
    # A call of the backbone embeds its timestep once. The count has it once for each image.
    embedding = 2 * (256 * 16 + 16 * 16)
    shared = (3 * sum(passes) - 7) * embedding
    assert costs["tflop_per_image"] * 3e12 - shared == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_costs_of_several_processes_are_added() -> None:
    """One of them had no images."""
    together = Made(2, 1.0, 8.0, (2.0, 4.0)) + Made() + Made(1, 0.5, 4.0, (1.0, 2.0))
    assert together == Made(3, 1.5, 12.0, (3.0, 6.0)) and together.passes == 9
    assert together.per_image([10**12, 10**13])["tflop_per_image"] == pytest.approx(1 + 20)
    assert Made().per_image([1, 2]) == {}
