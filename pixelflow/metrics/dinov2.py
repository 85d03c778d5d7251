"""DINOv2 ViT-L/14 features of FD-DINOv2 (Stein et al. 2023; Karras et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.losses.frozen import IMAGENET_MEAN, IMAGENET_STD
from pixelflow.metrics.features import Features, FrozenFeatures, load_into, load_tensors

SIDE, PATCH = 224, 14
OFFSET = 0.1
"""Added to the number of patches a side before their ratio is taken, as the released DINOv2 does."""


class DinoV2Features(FrozenFeatures):
    """The normalised class token of the last block. file: of Meta's release. model_name: the same network in timm."""

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
            raise ValueError(f"num_features={self.num_features}, but {self.name} has {width}")
        if path is not None:
            tensors = load_tensors(path)
            tensors.pop("mask_token", None)  # of its training alone
            if "pos_embed" in tensors:
                tensors["pos_embed"] = resample_positions(tensors["pos_embed"], SIDE // PATCH)
            load_into(model, tensors, path, self.name)
        return _Prepared(model)

    def __call__(self, images: Tensor) -> Features:
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
    """(B, 3, H, W) uint8 -> (B, 3, side, side) float32 of whole numbers in 0..255, as Pillow's bicubic gives them.

    Pillow goes along the rows first and rounds in between, which at hard edges makes a difference.
    """
    x = images.float()
    for size in ((x.shape[-2], side), (side, side)):
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return x


def resample_positions(table: Tensor, side: int) -> Tensor:
    """(1, 1 + n^2, W) -> (1, 1 + side^2, W): the patches' positions, bicubic without antialiasing, with the release's
    offset; the class token's stays."""
    before = round((table.shape[1] - 1) ** 0.5)
    if before == side:
        return table
    grid = table[:, 1:].float().unflatten(1, (before, before)).permute(0, 3, 1, 2)
    ratio = (side + OFFSET) / before
    grid = F.interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic", antialias=False)
    return torch.cat([table[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)
