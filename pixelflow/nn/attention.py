"""Self-attention on a pack: every image attends to itself alone.

Attention itself is one of `kernels`: by default one dense call per resolution on static slices of the pack.
"""

from __future__ import annotations

from torch import Tensor, nn

from pixelflow.nn.kernels import KERNELS
from pixelflow.nn.norms import RMSNorm
from pixelflow.nn.pack import Layout
from pixelflow.nn.rope import Rope2D, rotate


class SelfAttention(nn.Module):
    """Queries and keys are normalised over the whole width before the heads are split, then rotated (PixelFlow)."""

    def __init__(self, *, width: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=bias)
        self.q_norm = RMSNorm(width)
        self.k_norm = RMSNorm(width)
        self.kernel = "dense_groups"

    def forward(self, x: Tensor, layout: Layout, rope: Rope2D) -> Tensor:
        """x: (N, D) -> (N, D)."""
        q, k, v = self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x)
        q, k, v = (t.to(v.dtype).unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        return self.o_proj(attend(q, k, v, layout, rope, self.kernel))


class HeadNormAttention(nn.Module):
    """Queries and keys are normalised head by head, then rotated; tokens before the image are not (JiT)."""

    def __init__(self, *, width: int, num_heads: int, drop: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = RMSNorm(width // num_heads)
        self.k_norm = RMSNorm(width // num_heads)
        self.drop = nn.Dropout(drop)
        self.kernel = "dense_groups"

    def forward(self, x: Tensor, layout: Layout, rope: Rope2D) -> Tensor:
        """x: (N, D) -> (N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        return self.drop(self.proj(attend(q, k, v, layout, rope, self.kernel)))


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, rope: Rope2D, kernel: str = "dense_groups") -> Tensor:
    """q, k, v: (N, heads, head_dim) -> (N, D). Every image attends to itself, after rotation of q and k."""
    tables = [rope(g.height, g.width, v.device, prefix=g.prefix) for g in layout]
    turned_q, turned_k = (
        [rotate(group, table) for group, table in zip(layout.split(x), tables, strict=True)] for x in (q, k)
    )
    return KERNELS[kernel](turned_q, turned_k, layout.split(v), layout)
