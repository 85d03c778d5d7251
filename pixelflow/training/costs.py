"""The costs of a training step, counted on a copy of the backbone on the meta device, and the rate of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pixelflow.flow.cascade import Cascade
from pixelflow.nn.flops import DEFAULT_WIDTH, matrix_rate, stage_flops


@dataclass(frozen=True)
class StepCosts:
    """The costs of one step.

    Args:
        images: Images of the step.
        tokens: Tokens of these images.
        flops: Floating-point operations of the forward and backward passes, attention included.
    """

    images: int
    tokens: int
    flops: int


def step_costs(backbone: nn.Module, cascade: Cascade, *, channels: int, images: int) -> StepCosts:
    """Counts a step whose images are divided evenly among the stages.

    A backward pass costs two forward passes: one product for the gradient of each factor. Operations that activation
    checkpointing repeats are not counted.

    Args:
        backbone: The backbone on the meta device.
        cascade: The cascade, which gives the resolution of each stage.
        channels: Channels of an image.
        images: Images of the step.
    """
    sides = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    share = images / len(sides)
    flops = sum(3 * share * each for each in stage_flops(backbone, cascade, channels))
    patch = int(backbone.patch_size)  # type: ignore[arg-type]
    return StepCosts(images, round(sum(share * (side // patch) ** 2 for side in sides)), round(flops))


def device_rate(
    backbone: nn.Module, *, precision: Literal["fp32", "bf16"], device: torch.device, repeats: int | None = None
) -> float:
    """Measures the floating-point operations per second of matrix products.

    Args:
        backbone: The products are as wide as its features.
        precision: Precision of the training.
        device: Device of this process.
        repeats: Number of measurements, of which the fastest counts; by default 10 on a GPU and 3 on a CPU.
    """
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    width = int(getattr(backbone, "width", DEFAULT_WIDTH))
    return matrix_rate(
        width, dtype=dtype, device=device, tokens=4096 if cuda else 512, repeats=repeats or (10 if cuda else 3)
    )
