"""The forward passes and floating-point operations of one sampled image, counted without drawing it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelflow.flow.cascade import Cascade
from pixelflow.nn.flops import forward_flops
from pixelflow.sampling.feature_cache import FeatureCache
from pixelflow.types import Guidance, Solver


@dataclass(frozen=True)
class StageCounts:
    """The costs of one stage for one image.

    Args:
        resolution: Side of the stage's images in pixels.
        evaluations: Velocity evaluations.
        passes: Forward passes; a guided evaluation takes two.
        flops: Floating-point operations of these passes.
    """

    resolution: int
    evaluations: int
    passes: int
    flops: int


@dataclass(frozen=True)
class SamplingCounts:
    """The costs of one image, by stage."""

    stages: tuple[StageCounts, ...]

    @property
    def passes(self) -> int:
        """Forward passes of all stages."""
        return sum(stage.passes for stage in self.stages)

    @property
    def flops(self) -> int:
        """Floating-point operations of all stages."""
        return sum(stage.flops for stage in self.stages)


def sampling_costs(
    backbone: nn.Module,
    cascade: Cascade,
    solver: Solver,
    guidance: Guidance,
    *,
    channels: int,
    adaptive_evaluations: int | None = None,
    cache_every: int = 1,
) -> SamplingCounts:
    """Counts the passes and operations of one image of a class, not of the null condition.

    Args:
        backbone: The backbone on the meta device.
        cascade: The cascade, which gives the resolution of each stage.
        solver: The solver, which is run on a single number to see at which times it evaluates the velocity.
        guidance: The guidance scale by stage and time; a scale of 1 takes one pass, another one two.
        channels: Channels of an image.
        adaptive_evaluations: The assumed evaluations of each stage by an adaptive solver, evenly spread over its times.
        cache_every: See `SamplerSettings`.

    Raises:
        ValueError: The solver is adaptive, and `adaptive_evaluations` is missing.
    """
    stages = []
    for stage in range(cascade.num_stages):
        passes = passes_of_evaluations(solver, guidance, stage, adaptive_evaluations=adaptive_evaluations)
        side = cascade.resolution(stage)
        flops = forward_flops(backbone, side, channels) * sum(passes)
        if cache_every > 1 and side == cascade.image_size:
            flops = _cached_flops(backbone, side, channels, passes, every=cache_every)
        stages.append(StageCounts(side, len(passes), sum(passes), flops))
    return SamplingCounts(tuple(stages))


def passes_of_evaluations(
    solver: Solver, guidance: Guidance, stage: int, *, adaptive_evaluations: int | None = None
) -> list[int]:
    """Returns for each velocity evaluation of a stage its forward passes: 1, or 2 where it is guided.

    Args:
        solver: See `sampling_costs`.
        guidance: See `sampling_costs`.
        stage: Number of the stage.
        adaptive_evaluations: See `sampling_costs`.

    Raises:
        ValueError: The solver is adaptive, and `adaptive_evaluations` is missing.
    """
    taus: list[float] = []

    def velocity(
        x: Tensor, tau: float | Tensor, *, guidance_tau: float | None = None, images: Tensor | None = None
    ) -> Tensor:
        taus.append(float(tau) if guidance_tau is None else guidance_tau)
        return torch.zeros_like(x)

    if not solver.adaptive:
        solver.integrate(velocity, torch.zeros(1, 1, 1, 1), solver.time_grid(stage))
    elif adaptive_evaluations is None:
        raise ValueError("an adaptive solver has no fixed number of evaluations: adaptive_evaluations is needed")
    else:
        taus = [(n + 0.5) / adaptive_evaluations for n in range(adaptive_evaluations)]
    return [1 if guidance.scale(stage, tau) == 1 else 2 for tau in taus]


def _cached_flops(backbone: nn.Module, side: int, channels: int, passes: list[int], *, every: int) -> int:
    """Counts the last stage with `FeatureCache`, which computes all blocks when the number of images changes."""
    cache = FeatureCache(backbone, every=every, resolution=side)
    whole, reused = (forward_flops(cache, side, channels) for _ in range(2))
    total, stored = 0, 0
    for n, images in enumerate(passes):
        if n % every and images == stored:
            total += images * reused
        else:
            total, stored = total + images * whole, images
    return total
