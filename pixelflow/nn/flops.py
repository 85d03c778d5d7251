"""Floating-point operations of a network, and the rate at which a device computes matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pixelflow.flow.cascade import Cascade
from pixelflow.nn.kernel_timing import least_seconds
from pixelflow.types import Condition

DEFAULT_WIDTH = 1024
"""Width of the measured matrix product for a backbone without the attribute `width`."""


def forward_flops(backbone: nn.Module, resolution: int, channels: int) -> int:
    """Counts the floating-point operations of one forward pass of one image.

    Args:
        backbone: On the meta device.
        resolution: Side of the image in pixels.
        channels: Channels of the image.
    """
    x = torch.empty(1, channels, resolution, resolution, device="meta")
    label = torch.zeros(1, dtype=torch.int64, device="meta")
    with torch.no_grad():
        return count_flops(lambda: backbone(x, torch.empty(1, device="meta"), Condition(label)))


def count_flops(work: Callable[[], object]) -> int:
    """Counts the floating-point operations of the products in `work()`, which may run on tensors without content."""
    # The unfused form of attention is counted on any device, and has as many operations as the fused ones.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def drop_content(network: nn.Module) -> None:
    """Replaces weights and buffers by empty ones on the CPU, which take no memory within `FakeTensorMode`.

    Args:
        network: A network on any device, also the meta device; it is changed in place.
    """
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
                module._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def stage_flops(backbone: nn.Module, cascade: Cascade, channels: int) -> list[int]:
    """Counts the floating-point operations of one forward pass of one image at the resolution of each stage.

    In a batch with one timestep its embedding is computed once; here it is counted for each image.

    Args:
        backbone: On the meta device.
        cascade: Gives the resolutions.
        channels: Channels of the image.
    """
    return [forward_flops(backbone, cascade.resolution(stage), channels) for stage in range(cascade.num_stages)]


def tflop(passes: Sequence[float], flops: Sequence[int]) -> float:
    """Returns the 10^12 floating-point operations of forward passes.

    Args:
        passes: Number of forward passes in each stage.
        flops: Operations of one forward pass in each stage, see `stage_flops`.
    """
    return sum(number * each for number, each in zip(passes, flops, strict=True)) / 1e12


def matrix_rate(
    width: int, *, dtype: torch.dtype, device: torch.device, tokens: int = 4096, repeats: int = 10
) -> float:
    """Measures floating-point operations per second of (tokens, width) @ (width, 4 width), the best of `repeats`."""
    a = torch.randn(tokens, width, dtype=dtype, device=device)
    b = torch.randn(width, 4 * width, dtype=dtype, device=device)
    seconds = least_seconds(lambda: a @ b, device=device, repeats=repeats)
    return 2 * tokens * width * 4 * width / seconds
