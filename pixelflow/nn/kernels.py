"""Attention over a pack, where every image attends to itself: three ways to the same result.

dense_groups: one dense call for each resolution, on any device; underneath torch takes cuDNN, flash or the efficient
kernel. varlen: one call over the whole pack, torch's own flash attention (CUDA). flash_attn: the same by the package
of that name, version 3 where it is installed, else 2. Head dimensions go in as they are; kernels pad 72 to 96 inside.

Shape legend: b images of a group, L tokens of one image, N tokens of the pack, H heads, E head dimension.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.nn.pack import Layout

logger = logging.getLogger(__name__)

Kernel = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Layout], Tensor]
"""q, k, v: (b, L, H, E) for each group of the layout -> (N, H * E)."""

REPEATS = 5


def dense_groups(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], layout: Layout) -> Tensor:
    outputs = []
    for q_g, k_g, v_g in zip(q, k, v, strict=True):
        out = F.scaled_dot_product_attention(q_g.transpose(1, 2), k_g.transpose(1, 2), v_g.transpose(1, 2))
        outputs.append(out.transpose(1, 2).flatten(2))
    return layout.join(outputs)


def varlen(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], layout: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = image_ends(layout, q[0].device), max(g.length for g in layout)
    packed = (layout.join(q), layout.join(k), layout.join(v))
    out = varlen_attn(*packed, ends, ends, longest, longest)
    assert isinstance(out, Tensor)
    return out.flatten(1)


def flash_attn(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], layout: Layout) -> Tensor:
    module = importlib.import_module(_flash_module() or "flash_attn")
    ends, longest = image_ends(layout, q[0].device), max(g.length for g in layout)
    packed = (layout.join(q), layout.join(k), layout.join(v))
    out = module.flash_attn_varlen_func(*packed, ends, ends, longest, longest)
    return (out[0] if isinstance(out, tuple) else out).flatten(1)  # some builds of version 3 return the sums, too


KERNELS: dict[str, Kernel] = {"dense_groups": dense_groups, "varlen": varlen, "flash_attn": flash_attn}


def image_ends(layout: Layout, device: torch.device) -> Tensor:
    """(B + 1,) int32: 0, and where each image's tokens end. Made on the device, which nobody waits for."""
    parts = [torch.zeros(1, dtype=torch.int32, device=device)]
    for g in layout:
        steps = torch.arange(1, g.num_images + 1, dtype=torch.int32, device=device)
        parts.append(g.tokens.start + g.length * steps)
    return torch.cat(parts)


def _flash_module() -> str | None:
    return next((n for n in ("flash_attn_interface", "flash_attn") if importlib.util.find_spec(n)), None)


def unavailable(name: str, *, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why this kernel cannot be used here, or None."""
    if name == "dense_groups":
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    if dtype not in (torch.bfloat16, torch.float16):
        return "needs trainer.precision=bf16"
    if name == "flash_attn" and _flash_module() is None:
        return "needs the package flash-attn: pip install 'pixelflow[flash-attn]'"
    return None


def time_kernels(
    layout: Layout, *, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Seconds of forward and backward of each kernel that can be used here, the least of a few."""
    times = {}
    for name, kernel in KERNELS.items():
        if unavailable(name, dtype=dtype, device=device) is None:
            try:
                times[name] = min(_seconds(kernel, layout, heads, head_dim, dtype, device) for _ in range(REPEATS + 1))
            except RuntimeError as error:  # built for other devices
                logger.info("attention %s: %s", name, str(error).splitlines()[0])
    return times


def _seconds(
    kernel: Kernel, layout: Layout, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> float:
    shapes = [(g.num_images, g.length, heads, head_dim) for g in layout]
    q, k, v = ([torch.randn(s, dtype=dtype, device=device, requires_grad=True) for s in shapes] for _ in range(3))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    kernel(q, k, v, layout).sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def choose_kernel(
    name: str, layout: Layout, *, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> str:
    """The kernel's name; for "auto" that of the fastest for this layout. Raises ValueError where it cannot be used."""
    if name == "auto":
        usable = [n for n in KERNELS if unavailable(n, dtype=dtype, device=device) is None]
        if len(usable) > 1:
            times = time_kernels(layout, heads=heads, head_dim=head_dim, dtype=dtype, device=device)
            usable = sorted(times, key=times.__getitem__)
            logger.info("attention: %s", ", ".join(f"{n} {1e3 * times[n]:.2f} ms" for n in usable))
        return usable[0]
    if reason := unavailable(name, dtype=dtype, device=device):
        raise ValueError(f"attention={name} {reason}; use auto or dense_groups")
    return name


def set_kernel(backbone: nn.Module, name: str) -> None:
    """For every attention of the backbone."""
    for module in backbone.modules():
        if hasattr(module, "kernel"):
            setattr(module, "kernel", name)  # noqa: B010  (mypy takes every attribute of a module for a tensor)
