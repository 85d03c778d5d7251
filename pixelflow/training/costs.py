"""What a training step costs, counted on a copy of the backbone without memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pixelflow.flow.cascade import Cascade
from pixelflow.nn.flops import forward_flops


@dataclass(frozen=True)
class StepCosts:
    """images, tokens: of the step. flops: of its forward and backward passes, attention included."""

    images: int
    tokens: int
    flops: int


def step_costs(backbone: nn.Module, cascade: Cascade, *, channels: int, images: int) -> StepCosts:
    """Of a step of so many images, dealt evenly to the stages.

    A backward pass costs twice a forward one: a product each for the gradients of its two factors. What is computed
    again to save memory does not count: it is no progress.
    """
    sides = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    share = images / len(sides)
    flops = sum(3 * share * forward_flops(backbone, side, channels) for side in sides)
    patch = int(backbone.patch_size)  # type: ignore[arg-type]
    return StepCosts(images, round(sum(share * (side // patch) ** 2 for side in sides)), round(flops))
