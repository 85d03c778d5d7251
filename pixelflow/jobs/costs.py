"""What a training step costs, counted on a copy of the backbone without memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hydra.utils import instantiate

from pixelflow.jobs.build import Config
from pixelflow.sampling.measure import forward_flops


@dataclass(frozen=True)
class StepCosts:
    """images, tokens: of the step. flops: of its forward and backward passes, attention included."""

    images: int
    tokens: int
    flops: int


def step_costs(config: Config, images: int) -> StepCosts:
    """Of a step of so many images, dealt evenly to the stages.

    A backward pass costs twice a forward one: a product each for the gradients of its two factors. What is computed
    again to save memory does not count: it is no progress.
    """
    with torch.device("meta"):
        bare = instantiate(config["backbone"])
    cascade = instantiate(config["cascade"], max_timestep=bare.max_timestep)
    sides = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    share = images / len(sides)
    flops = sum(3 * share * forward_flops(bare, side, config["data"]["channels"]) for side in sides)
    return StepCosts(images, round(sum(share * (side // bare.patch_size) ** 2 for side in sides)), round(flops))
