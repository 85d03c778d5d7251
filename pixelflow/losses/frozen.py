"""Frozen networks of the perceptual losses. Their weights are read from the assets folder and never downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.assets import missing_line
from pixelflow.errors import UserError
from pixelflow.limits import at_least


class Frozen:
    """A network that is built and loaded by `load` only.

    Args:
        file: File of the weights in the assets folder; None for seeded random weights, for tests and benchmarks.
    """

    def __init__(self, *, file: str | None) -> None:
        self.file, self.bf16 = file, False
        self.model: nn.Module | None = None

    def missing(self, folder: Path) -> list[str]:
        """Returns a line for each missing file: its path, size and source."""
        return [line for file in self.needs() if (line := missing_line(folder, file))]

    def needs(self) -> list[str]:
        """Returns the files that it reads from the assets folder."""
        return [] if self.file is None else [self.file]

    def load(self, folder: Path, device: Any, *, bf16: bool = False) -> None:
        """Builds the network, once.

        Args:
            folder: The assets folder.
            device: Where the network computes.
            bf16: Whether it computes under autocast.

        Raises:
            UserError: The file is missing or holds other weights.
        """
        if self.model is not None:
            return
        if problems := self.missing(folder):
            raise UserError(problems[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for random weights; those of a file replace them
            model = self._build(None if self.file is None else folder / self.file)
        self.model, self.bf16 = model.to(device).eval().requires_grad_(False), bf16

    def _build(self, path: Path | None) -> nn.Module:
        raise NotImplementedError

    def _run(self, *images: Tensor) -> Tensor:
        assert self.model is not None, "load() comes first"
        with torch.autocast(images[0].device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(*images).float()


def as_rgb(x: Tensor) -> Tensor:
    """Returns grey images (B, 1, H, W) with three channels; others unchanged."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def resized(x: Tensor, size: int | None) -> Tensor:
    """Resizes (B, C, H, W) to (B, C, size, size), bicubic; None leaves the images unchanged."""
    if size is None or x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bicubic", align_corners=False)


class DinoV2(Frozen):
    """Patch features of a DINOv2 (Oquab et al. 2024) from timm.

    Args:
        file: See `Frozen`.
        name: The model's name in timm.
        layer: The block whose output is taken, counted from 0; it is normalised by the network's last norm.
        image_size: The size to which all images are resized, bicubic; a multiple of 14.
        num_features: The width of the model.

    Raises:
        ValueError: A number is out of range, or the patch size does not divide `image_size`.
    """

    def __init__(
        self,
        *,
        file: str | None = "vit_base_patch14_dinov2.safetensors",
        name: str = "vit_base_patch14_dinov2",
        layer: int = 11,
        image_size: int = 224,
        num_features: int = 768,
    ) -> None:
        super().__init__(file=file)
        at_least(0, layer=layer)
        at_least(1, image_size=image_size, num_features=num_features)
        patch = re.search(r"patch(\d+)", name)
        if patch and image_size % int(patch[1]):
            raise ValueError(f"image_size={image_size} must be a multiple of {patch[1]}, the patch size of {name}")
        self.name, self.layer, self.image_size, self.num_features = name, layer, image_size, num_features

    def _build(self, path: Path | None) -> nn.Module:
        import timm  # slow to import

        # `file` goes through timm's own conversion, which resamples the position table to image_size.
        overlay = None if path is None else {"file": str(path)}
        model = timm.create_model(
            self.name, pretrained=path is not None, pretrained_cfg_overlay=overlay, num_classes=0,
            img_size=self.image_size,
        )  # fmt: skip
        if (width := model.num_features) != self.num_features:
            raise ValueError(f"num_features={self.num_features}, but {self.name} has {width}")
        return PatchTokens(model, self.layer)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) in [-1, 1] to tokens (B, L, F)."""
        x = as_rgb(x) / 2 + 0.5
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return self._run(resized((x - mean) / std, self.image_size))


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PatchTokens(nn.Module):
    """Returns the patch tokens that a block of a timm vision transformer outputs, without class or register tokens.

    Args:
        model: The vision transformer.
        layer: The block.
    """

    def __init__(self, model: Any, layer: int) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) to tokens (B, L, F)."""
        (tokens,) = self.model.forward_intermediates(
            x, indices=[self.layer], norm=True, output_fmt="NLC", stop_early=True, intermediates_only=True
        )
        return tokens
