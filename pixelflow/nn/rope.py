"""Rotary position embedding in two dimensions (Su et al. 2021; PixelFlow section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rope_table(height: int, width: int, head_dim: int, *, theta: float = 10000.0, row_first: bool = False) -> Tensor:
    """Returns cos and sin of the rotation angles of each token, row by row, (L, head_dim, 2) float32.

    Within each half of head_dim the angles are index * freq_j with freq_j = theta^(-2j / (head_dim/2)), and each angle
    rotates one adjacent pair.

    Args:
        height: Rows of tokens.
        width: Columns of tokens; L = height * width.
        head_dim: Head dimension, divisible by 4.
        theta: Base of the frequencies.
        row_first: Whether the first half of head_dim depends on the row index and the second on the column index,
            instead of the reverse.
    """
    half = head_dim // 2
    freqs = theta ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    axes = (rows, cols) if row_first else (cols, rows)
    angles = torch.cat([torch.outer(index.flatten().double(), freqs) for index in axes], dim=1)
    angles = angles.repeat_interleave(2, dim=1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotates adjacent pairs, (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        x: (b, L, heads, head_dim).
        table: (L, head_dim, 2), from `rope_table`.
    """
    cos, sin = table[:, None, :, 0], table[:, None, :, 1]
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-b, a], dim=-1).flatten(-2)
    return (x * cos + turned * sin).to(x.dtype)


class Rope2D(nn.Module):
    """Caches the tables of `rope_table` by resolution and device.

    Args:
        head_dim: Head dimension, divisible by 4: two axes, each rotated in pairs.
        theta: See `rope_table`.
        row_first: See `rope_table`.

    Raises:
        ValueError: head_dim is not divisible by 4.
    """

    def __init__(self, *, head_dim: int, theta: float = 10000.0, row_first: bool = False) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"head_dim={head_dim} must be divisible by 4: two axes, rotated in pairs")
        self.head_dim, self.theta, self.row_first = head_dim, theta, row_first
        self._tables: dict[tuple[int, int, int, torch.device], Tensor] = {}

    def forward(self, height: int, width: int, device: torch.device, *, prefix: int = 0) -> Tensor:
        """Returns the table, (prefix + height * width, head_dim, 2); the first `prefix` tokens are not rotated."""
        key = (height, width, prefix, device)
        if key not in self._tables:
            with torch.inference_mode(False):  # a table that sampling makes serves training as well
                table = rope_table(height, width, self.head_dim, theta=self.theta, row_first=self.row_first)
                still = torch.tensor([1.0, 0.0]).expand(prefix, self.head_dim, 2)
                self._tables[key] = torch.cat([still, table]).to(device)
        return self._tables[key]
