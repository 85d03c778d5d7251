"""Measures the cost of sampling a batch: seconds, velocity evaluations and forward passes of each stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from pixelflow.sampling.sampler import Sampler, StageNoise
from pixelflow.types import Backbone, BackboneOutput, Condition


@dataclass
class StageCost:
    """The cost of one stage.

    Args:
        resolution: Side of the stage's images.
        seconds: Seconds of the batch in the solver.
        nfe: Velocity evaluations.
        passes: Forward passes per image.
    """

    resolution: int
    seconds: float = 0.0
    nfe: int = 0
    passes: float = 0.0


@dataclass
class Costs:
    """The cost of one batch.

    Args:
        images: The images, (B, C, R, R), not clamped.
        stages: Costs of the stages.
        noise: Seconds of drawing noise.
        renoise: Seconds between the stages, without those of drawing noise.
        total: Seconds of the whole batch.
    """

    images: Tensor
    stages: list[StageCost]
    noise: float
    renoise: float
    total: float

    @property
    def passes(self) -> float:
        """Forward passes per image, over all stages."""
        return sum(stage.passes for stage in self.stages)


class CountingBackbone:
    """Calls a backbone, and counts the calls and their images by resolution.

    Args:
        backbone: The backbone.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.patch_size, self.fixed_resolution = backbone.patch_size, backbone.fixed_resolution
        self.calls: dict[int, int] = defaultdict(int)
        self.images: dict[int, int] = defaultdict(int)

    def start_trajectory(self) -> None:
        """Resets the features that the backbone keeps between evaluations, if it keeps any."""
        if hasattr(self.backbone, "start_trajectory"):
            self.backbone.start_trajectory()

    def __call__(
        self, x_t: Tensor | Sequence[Tensor], timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        """Returns the output of the backbone; see `Backbone`."""
        assert isinstance(x_t, Tensor), "the batches of a sampler have one resolution"
        self.calls[x_t.shape[-1]] += 1
        self.images[x_t.shape[-1]] += len(x_t)
        return self.backbone(x_t, timestep, condition, features)


@dataclass
class _Clock:
    """Records the begin and the end of each stage. Only there it synchronises with the device."""

    device: torch.device
    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def observe(self, stage: int, tau: float | Tensor, x: Tensor) -> None:
        if len(self.begins) == stage:
            self.begins.append(self.now())
        elif isinstance(tau, float) and tau == 1.0:
            self.ends[stage:] = [self.now()]


def measure_batch(sampler: Sampler, condition: Condition, noise: StageNoise) -> Costs:
    """Draws one batch and measures each stage.

    Args:
        sampler: Draws the batch.
        condition: Conditions of B images.
        noise: Gives the noise of each stage, (B, C, h, w).
    """
    clock, counting = _Clock(sampler.device), CountingBackbone(sampler.backbone)
    noise_seconds = 0.0

    def timed_noise(stage: int) -> Tensor:
        nonlocal noise_seconds
        start = clock.now()
        drawn = noise(stage)
        noise_seconds += clock.now() - start
        return drawn

    sampler.backbone, backbone = cast(Backbone, counting), sampler.backbone
    start = clock.now()
    try:
        samples = sampler.sample(condition, timed_noise, observe=clock.observe)
    finally:
        sampler.backbone = backbone
    total = clock.now() - start
    stages = []
    for stage in range(sampler.cascade.num_stages):
        side = sampler.cascade.resolution(stage)
        seconds = clock.ends[stage] - clock.begins[stage]
        stages.append(StageCost(side, seconds, counting.calls[side], counting.images[side] / len(condition)))
    renoise = total - noise_seconds - sum(stage.seconds for stage in stages)
    return Costs(samples.x, stages, noise_seconds, renoise, total)
