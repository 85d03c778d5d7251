"""Images to patches and back."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, L, C*p*p); patches row by row, each flattened as (channel, row, col)."""
    b, c, h, w = x.shape
    p = patch_size
    x = x.view(b, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def unpatchify(patches: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """(B, L, p*p*C), each patch flattened as (row, col, channel), L = height * width -> (B, C, H, W)."""
    b, _, d = patches.shape
    p = patch_size
    x = patches.view(b, height, width, p, p, d // (p * p))
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height * p, width * p)


class PatchEmbed(nn.Module):
    """One linear layer over each patch, stored as a convolution's, `proj.weight` (D, C, p, p)."""

    def __init__(self, *, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, C*p*p) -> (N, D)."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)
