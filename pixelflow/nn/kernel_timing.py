"""Times attention: the fastest kernel depends on the lengths, the head dimension and the machine.

`choose_kernel` compares the kernels of `kernels` on a pack, forward and backward, for training. `time_attention`
compares the backends of torch's dense attention on one length, forward only, for sampling.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixelflow.nn.kernels import KERNELS, Kernel, attention_modules, unavailable
from pixelflow.nn.pack import Layout

logger = logging.getLogger(__name__)

BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
REPEATS = 6
"""The first call also pays for initialisation; the minimum excludes it."""


def least_seconds(function: Callable[[], Any], *, device: torch.device, repeats: int = REPEATS) -> float:
    """Returns the least wall-clock time of `repeats` calls, in seconds, the work on the device included."""
    times = []
    for _ in range(repeats):
        _synchronize(device)
        start = time.perf_counter()
        function()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_attention(
    batch: int, heads: int, length: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
) -> dict[SDPBackend, float]:
    """Times the forward pass of dense attention on (batch, heads, length, head_dim).

    Returns:
        Seconds of one call, for each backend that supports such inputs on this device.
    """
    q, k, v = (torch.randn(batch, heads, length, head_dim, dtype=dtype, device=device) for _ in range(3))
    times = {}
    for backend in BACKENDS:
        try:
            with sdpa_kernel(backend), warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # torch warns at length about a backend that does not apply
                times[backend] = least_seconds(lambda: F.scaled_dot_product_attention(q, k, v), device=device)
        except RuntimeError:  # no such kernel for these inputs
            continue
    return times


def fastest_backends(
    backbone: nn.Module, shapes: list[tuple[int, int]], *, dtype: torch.dtype, device: torch.device
) -> list[SDPBackend] | None:
    """Returns the fastest attention backend for each (images, tokens of one image).

    None for a backbone without attention modules (see `attention_modules`), which has nothing to choose.
    """
    modules = attention_modules(backbone)
    if not modules:
        return None
    heads, head_dim = modules[0].num_heads, modules[0].head_dim
    chosen = []
    for batch, length in shapes:
        times = time_attention(batch, heads, length, head_dim, dtype=dtype, device=device)
        chosen.append(min(times, key=times.__getitem__))
    return chosen


def time_kernels(
    layout: Layout, *, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Returns seconds of the forward and backward pass of each kernel that can be used with these inputs."""
    times = {}
    for name, kernel in KERNELS.items():
        if unavailable(name, dtype=dtype, device=device) is None:
            try:
                times[name] = _kernel_seconds(kernel, layout, heads, head_dim, dtype, device)
            except RuntimeError as error:  # built for other devices
                logger.info("attention %s: %s", name, str(error).splitlines()[0])
    return times


def _kernel_seconds(
    kernel: Kernel, layout: Layout, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> float:
    shapes = [(g.num_images, g.length, heads, head_dim) for g in layout]
    q, k, v = ([torch.randn(s, dtype=dtype, device=device, requires_grad=True) for s in shapes] for _ in range(3))
    return least_seconds(lambda: kernel(q, k, v, layout).sum().backward(), device=device)


def choose_kernel(name: str, layout: Layout, *, backbone: nn.Module, dtype: torch.dtype, device: torch.device) -> str:
    """Returns the attention kernel to train with.

    Args:
        name: A name in `KERNELS`, or "auto" for the fastest one on this layout.
        layout: The pack of a training step.
        backbone: Its attention modules give the number of heads and their dimension (see `attention_modules`).
            Without such modules "auto" is "dense_groups", which has no effect.
        dtype: Type of queries, keys and values.
        device: Where they are.

    Raises:
        ValueError: The kernel cannot be used with this dtype, device or backbone.
    """
    modules = attention_modules(backbone)
    if name != "auto":
        reason = unavailable(name, dtype=dtype, device=device)
        if reason is None and name != "dense_groups" and not modules:
            reason = f"needs attention modules with kernel, num_heads and head_dim; {type(backbone).__name__} has none"
        if reason:
            raise ValueError(f"attention={name} {reason}; use auto or dense_groups")
        return name
    usable = [n for n in KERNELS if unavailable(n, dtype=dtype, device=device) is None]
    if len(usable) == 1 or not modules:
        return usable[0]
    heads, head_dim = modules[0].num_heads, modules[0].head_dim
    times = time_kernels(layout, heads=heads, head_dim=head_dim, dtype=dtype, device=device)
    usable = sorted(times, key=times.__getitem__)
    logger.info("attention: %s", ", ".join(f"{n} {1e3 * times[n]:.2f} ms" for n in usable))
    return usable[0]
