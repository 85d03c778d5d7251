"""Conversion of images to patches and back, and patch embeddings.

Shape legend: B images, L patches of one image, N tokens of the pack, p patch size, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Cuts (B, C, H, W) into patches (B, L, C*p*p), row by row, each flattened as (channel, row, col)."""
    b, c, h, w = x.shape
    p = patch_size
    x = x.view(b, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def unpatchify(patches: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """Joins patches (B, L, p*p*C), each flattened as (row, col, channel), to (B, C, H, W).

    Args:
        patches: (B, L, p*p*C) with L = height * width.
        patch_size: p.
        height: Rows of patches.
        width: Columns of patches.
    """
    b, _, d = patches.shape
    p = patch_size
    x = patches.view(b, height, width, p, p, d // (p * p))
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height * p, width * p)


class PatchEmbed(nn.Module):
    """A linear layer over each patch, stored as a convolution with `proj.weight` (D, C, p, p)."""

    def __init__(self, *, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """Maps patches (N, C*p*p) to tokens (N, D)."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class BottleneckPatchEmbed(nn.Module):
    """A linear layer over each patch, or two with a low-rank bottleneck between them (JiT).

    The layers are stored as convolutions: `proj1`, without bias if there is a bottleneck, and then `proj2` of size 1x1.

    Args:
        patch_size: p.
        in_channels: C.
        width: D.
        bottleneck_dim: Width of the bottleneck; None for a single layer.
    """

    def __init__(self, *, patch_size: int, in_channels: int, width: int, bottleneck_dim: int | None) -> None:
        super().__init__()
        first = width if bottleneck_dim is None else bottleneck_dim
        self.proj1 = nn.Conv2d(in_channels, first, patch_size, stride=patch_size, bias=bottleneck_dim is None)
        self.proj2 = None if bottleneck_dim is None else nn.Conv2d(bottleneck_dim, width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Maps patches (N, C*p*p) to tokens (N, D)."""
        tokens = F.linear(patches, self.proj1.weight.flatten(1), self.proj1.bias)
        return tokens if self.proj2 is None else F.linear(tokens, self.proj2.weight.flatten(1), self.proj2.bias)
