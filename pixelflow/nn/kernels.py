"""Attention over a pack, where every image attends to itself: three kernels with the same result.

`dense_groups` makes one dense call for each resolution, on any device; torch then picks cuDNN, flash or the
memory-efficient kernel. `varlen` is one call of torch's own flash attention over the whole pack (CUDA). `flash_attn`
is one call of the package of that name, version 3 where it is installed, else version 2. The head dimension is passed
unchanged; the kernels pad it where they need to (72 to 96).

Shape legend: B images of the pack, b images of a group, L tokens of one image, N tokens of the pack, H heads, E head
dimension.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.nn.pack import Layout

Kernel = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Layout], Tensor]
"""q, k, v: (b, L, H, E) for each group of the layout -> (N, H * E)."""


def dense_groups(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], layout: Layout) -> Tensor:
    """Computes attention with one dense call for each group (see `Kernel`)."""
    outputs = []
    for q_g, k_g, v_g in zip(q, k, v, strict=True):
        out = F.scaled_dot_product_attention(q_g.transpose(1, 2), k_g.transpose(1, 2), v_g.transpose(1, 2))
        outputs.append(out.transpose(1, 2).flatten(2))
    return layout.join(outputs)


def varlen(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], layout: Layout) -> Tensor:
    """Computes attention with one call of torch's flash attention over the pack (see `Kernel`)."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = image_ends(layout, q[0].device), max(g.length for g in layout)
    packed = (layout.join(q), layout.join(k), layout.join(v))
    out = varlen_attn(*packed, ends, ends, longest, longest)
    assert isinstance(out, Tensor)
    return out.flatten(1)


def flash_attn(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], layout: Layout) -> Tensor:
    """Computes attention with one call of the package flash-attn over the pack (see `Kernel`)."""
    module = importlib.import_module(_flash_module() or "flash_attn")
    ends, longest = image_ends(layout, q[0].device), max(g.length for g in layout)
    packed = (layout.join(q), layout.join(k), layout.join(v))
    out = module.flash_attn_varlen_func(*packed, ends, ends, longest, longest)
    return (out[0] if isinstance(out, tuple) else out).flatten(1)  # some builds of version 3 also return the sums


KERNELS: dict[str, Kernel] = {"dense_groups": dense_groups, "varlen": varlen, "flash_attn": flash_attn}


def image_ends(layout: Layout, device: torch.device) -> Tensor:
    """Returns (B + 1,) int32: 0, and the position where each image's tokens end.

    The values are computed on the device, because a copy from the host would synchronise it.
    """
    parts = [torch.zeros(1, dtype=torch.int32, device=device)]
    for g in layout:
        steps = torch.arange(1, g.num_images + 1, dtype=torch.int32, device=device)
        parts.append(g.tokens.start + g.length * steps)
    return torch.cat(parts)


def _flash_module() -> str | None:
    return next((n for n in ("flash_attn_interface", "flash_attn") if importlib.util.find_spec(n)), None)


def unavailable(name: str, *, dtype: torch.dtype, device: torch.device) -> str | None:
    """Returns the reason why a kernel cannot be used with this dtype on this device, or None."""
    if name == "dense_groups":
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    if dtype not in (torch.bfloat16, torch.float16):
        return "needs precision=bf16"
    if name == "flash_attn" and _flash_module() is None:
        return "needs the package flash-attn: pip install 'pixelflow[flash-attn]'"
    return None


class PackAttention(Protocol):
    """An attention module whose kernel can be chosen.

    A module of a user's own backbone takes part by having these attributes and calling `KERNELS[self.kernel]`.
    """

    kernel: str
    num_heads: int
    head_dim: int


def attention_modules(backbone: nn.Module) -> list[PackAttention]:
    """Returns the modules of the backbone that have `kernel`, `num_heads` and `head_dim`; none without attention."""
    names = ("kernel", "num_heads", "head_dim")
    found = [module for module in backbone.modules() if all(hasattr(module, name) for name in names)]
    return cast(list[PackAttention], found)


def set_kernel(backbone: nn.Module, name: str) -> None:
    """Sets the kernel of every attention module of the backbone; a backbone without attention is left unchanged."""
    for module in attention_modules(backbone):
        module.kernel = name
