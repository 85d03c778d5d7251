"""DINOv2 ViT-L/14 features of FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675; Karras et al. 2024, arXiv 2312.02696)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.errors import UserError
from pixelflow.losses.frozen import IMAGENET_MEAN, IMAGENET_STD
from pixelflow.metrics.features import Features, FrozenFeatures, load_into, load_tensors

SIDE, PATCH = 224, 14
OFFSET = 0.1
"""The released DINOv2 adds it to the number of patches per side when it computes the ratio of the sides."""


class DinoV2Features(FrozenFeatures):
    """The normalised class token of the last block.

    Args:
        file: File of Meta's release in the assets folder; None for seeded random weights.
        model_name: Name of the network in timm.
        num_features: Width of the network.
    """

    short = "dinov2"
    num_spatial = 0
    preprocessing = "RGB, bicubic with antialiasing to 224x224, rounded to uint8, /255, ImageNet mean and deviation"
    metrics = ("frechet",)

    def __init__(
        self,
        *,
        file: str | None = "dinov2_vitl14_pretrain.pth",
        model_name: str = "vit_large_patch14_dinov2",
        num_features: int = 1024,
    ) -> None:
        self.name = model_name
        super().__init__(file=file)
        self.num_features = num_features

    def _build(self, path: Path | None) -> nn.Module:
        import timm  # slow to import

        model = timm.create_model(self.name, pretrained=False, num_classes=0, img_size=SIDE)
        if (width := model.num_features) != self.num_features:
            raise UserError(f"num_features={self.num_features}, but {self.name} has {width}")
        if path is not None:
            tensors = load_tensors(path)
            tensors.pop("mask_token", None)  # It is used in training only.
            if "pos_embed" in tensors:
                tensors["pos_embed"] = resample_positions(tensors["pos_embed"], SIDE // PATCH)
            load_into(model, tensors, path, self.name)
        return _Prepared(model)

    def __call__(self, images: Tensor) -> Features:
        """Returns the features of images (B, 1 or 3, H, W) uint8."""
        return Features(pool=self._run(images), logits=None)


class _Prepared(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        x = resize(images) / 255
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return self.model((x - mean) / std).float()


def resize(images: Tensor, side: int = SIDE) -> Tensor:
    """Resizes images as Pillow's bicubic filter does.

    Pillow resizes along the rows first and rounds the intermediate result, which makes a difference at hard edges.

    Args:
        images: (B, 3, H, W) uint8.
        side: Side of the result in pixels.

    Returns:
        (B, 3, side, side) float32 with integer values in 0..255.
    """
    x = images.float()
    for size in ((x.shape[-2], side), (side, side)):
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return x


def resample_positions(table: Tensor, side: int) -> Tensor:
    """Resamples position embeddings to another number of patches per side, as the released DINOv2 does.

    The interpolation is bicubic without antialiasing. The embedding of the class token does not change.

    Args:
        table: (1, 1 + n^2, W).
        side: Patches per side of the result.

    Returns:
        (1, 1 + side^2, W).
    """
    before = round((table.shape[1] - 1) ** 0.5)
    if before == side:
        return table
    grid = table[:, 1:].float().unflatten(1, (before, before)).permute(0, 3, 1, 2)
    ratio = (side + OFFSET) / before
    grid = F.interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic", antialias=False)
    return torch.cat([table[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)
