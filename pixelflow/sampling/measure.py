"""What sampling costs: seconds, forward passes and floating-point operations of each stage.

Floating-point operations are the model's own: matrix products of the tokens that there are, counted on a copy
without memory, so padding and recomputation show as a loss.
"""

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
    """Of one stage. seconds: of a batch, in the solver. passes: forward passes per image. nfe: evaluations."""

    resolution: int
    seconds: float = 0.0
    nfe: int = 0
    passes: float = 0.0


@dataclass
class Costs:
    """Of one batch. noise, renoise: seconds outside the stages. images: (B, C, R, R), not clamped."""

    images: Tensor
    stages: list[StageCost]
    noise: float
    renoise: float
    total: float

    @property
    def passes(self) -> float:
        return sum(stage.passes for stage in self.stages)


class CountingBackbone:
    """Passes calls on and counts images by resolution."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.patch_size, self.fixed_resolution = backbone.patch_size, backbone.fixed_resolution
        self.calls: dict[int, int] = defaultdict(int)
        self.images: dict[int, int] = defaultdict(int)

    def start_trajectory(self) -> None:
        if hasattr(self.backbone, "start_trajectory"):
            self.backbone.start_trajectory()

    def __call__(
        self, x_t: Tensor | Sequence[Tensor], timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        assert isinstance(x_t, Tensor), "a sampler's batches are of one resolution"
        self.calls[x_t.shape[-1]] += 1
        self.images[x_t.shape[-1]] += len(x_t)
        return self.backbone(x_t, timestep, condition, features)


@dataclass
class _Clock:
    """Notes when each stage began and ended; waits for the device there and nowhere else."""

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
    """One batch through the sampler, stage by stage."""
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
