"""Floating-point operations of a network, and the rate at which a device computes matrix products."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pixelflow.types import Condition


def forward_flops(backbone: nn.Module, resolution: int, channels: int) -> int:
    """Floating-point operations of one forward pass of one image. backbone: on the meta device."""
    x = torch.empty(1, channels, resolution, resolution, device="meta")
    label = torch.zeros(1, dtype=torch.int64, device="meta")
    # The plain form of attention is counted on any device, and costs what the fused ones do.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        backbone(x, torch.empty(1, device="meta"), Condition(label))
    return counter.get_total_flops()


def matrix_rate(
    width: int, *, dtype: torch.dtype, device: torch.device, tokens: int = 4096, repeats: int = 10
) -> float:
    """Floating-point operations per second of (tokens, width) @ (width, 4 width), the best of `repeats`."""
    a = torch.randn(tokens, width, dtype=dtype, device=device)
    b = torch.randn(width, 4 * width, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = _now(device)
        a @ b
        best = min(best, _now(device) - start)
    return 2 * tokens * width * 4 * width / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
