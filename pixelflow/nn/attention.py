"""Self-attention on a pack, in which every image attends to itself only.

The product itself is computed by one of `kernels`, by default with one dense call per resolution.
Shape legend: N tokens of the pack, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn

from pixelflow.nn.kernels import KERNELS
from pixelflow.nn.norms import RMSNorm
from pixelflow.nn.pack import Layout
from pixelflow.nn.rope import Rope2D, rotate


class SelfAttention(nn.Module):
    """Attention whose queries and keys are normalised over the whole width, split into heads and rotated (PixelFlow).

    Args:
        width: D, divisible by num_heads.
        num_heads: Number of heads.
        bias: Whether the four projections have a bias.
    """

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
        """Maps tokens (N, D) to (N, D)."""
        q, k, v = self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x)
        q, k, v = (t.to(v.dtype).unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        return self.o_proj(attend(q, k, v, layout, rope, self.kernel))


class HeadNormAttention(nn.Module):
    """Attention whose queries and keys are normalised per head and rotated (JiT); prefix tokens are not rotated.

    Args:
        width: D, divisible by num_heads.
        num_heads: Number of heads.
        drop: Dropout probability of the output.
    """

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
        """Maps tokens (N, D) to (N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        return self.drop(self.proj(attend(q, k, v, layout, rope, self.kernel)))


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, rope: Rope2D, kernel: str = "dense_groups") -> Tensor:
    """Rotates q and k and attends within each image. q, k, v: (N, heads, head_dim). Returns (N, D)."""
    tables = [rope(g.height, g.width, v.device, prefix=g.prefix) for g in layout]
    turned_q, turned_k = (
        [rotate(group, table) for group, table in zip(layout.split(x), tables, strict=True)] for x in (q, k)
    )
    return KERNELS[kernel](turned_q, turned_k, layout.split(v), layout)
