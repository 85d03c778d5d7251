"""Crops of training images and of evaluation images, as in the papers.

Training (PixelFlow): Lanczos resize of the short side to round(1.125 R), random crop of R x R, flip. Evaluation and
prepared shards (ADM): halve by box averaging while the short side is 2 R or more, bicubic to R, crop in the centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from pixelflow.data.decode import decode, size_of
from pixelflow.data.records import BadSample

ENLARGED = 1.125
"""Short side of a training image before its random crop, in units of the crop (PixelFlow, section 4.1)."""
RGB = 3


def _has_lanczos() -> bool:
    """Newer versions of torch have a vectorised Lanczos: five times Pillow's speed, equal within 1 or 2 grey levels."""
    try:
        F.interpolate(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), size=(4, 4), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError, RuntimeError):
        return False
    return True


HAS_LANCZOS = _has_lanczos()


@dataclass(frozen=True)
class Preprocess:
    """From the bytes of a file to a crop.

    crop: "random", the training crop of PixelFlow; or "center", ADM's. flip: mirror half of the images.
    max_pixels: larger images are refused before they are decoded. min_side: images with a shorter side are left out.
    max_aspect: longer side over shorter side; longer images are left out. 0 for either: none are.
    Raises ValueError for numbers out of range.
    """

    crop: Literal["random", "center"] = "random"
    flip: bool = True
    max_pixels: int = 64_000_000
    min_side: int = 0
    max_aspect: float = 0.0

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ValueError(f"preprocess.max_pixels={self.max_pixels} must be at least 1")
        if self.min_side < 0:
            raise ValueError(f"preprocess.min_side={self.min_side} must be 0 or more")
        if self.max_aspect and self.max_aspect < 1:
            raise ValueError(f"preprocess.max_aspect={self.max_aspect} must be at least 1, or 0 for any")

    def training_crop(self, data: bytes, size: int, uniform: np.ndarray) -> np.ndarray:
        """(size, size, 3) uint8, not yet flipped. uniform: two numbers in [0, 1), where to crop from top and left."""
        self._filter(data)
        if self.crop == "center":
            return center_crop(decode(data, max_pixels=self.max_pixels), size)
        short = round(ENLARGED * size)
        pixels = resize_short_side(decode(data, max_pixels=self.max_pixels, shortest=short), short)
        top, left = (int(u * (length - size + 1)) for u, length in zip(uniform, pixels.shape[:2], strict=False))
        return pixels[top : top + size, left : left + size]

    def evaluation_crop(self, data: bytes, size: int) -> np.ndarray:
        """(size, size, 3) uint8: ADM's, from an image decoded in full."""
        self._filter(data)
        return center_crop(decode(data, max_pixels=self.max_pixels), size)

    def _filter(self, data: bytes) -> None:
        if not self.min_side and not self.max_aspect:
            return
        height, width = size_of(data, max_pixels=self.max_pixels)
        if min(height, width) < self.min_side:
            raise BadSample("too small", f"{width} x {height}", filtered=True)
        if self.max_aspect and max(height, width) > self.max_aspect * min(height, width):
            raise BadSample("too long", f"{width} x {height}", filtered=True)


def resize_short_side(pixels: np.ndarray, short: int) -> np.ndarray:
    """(H, W, 3) uint8 by Lanczos; the long side as torchvision's Resize rounds it, down."""
    height, width = pixels.shape[:2]
    if min(height, width) == short:
        return pixels
    if height <= width:
        height, width = short, int(short * width / height)
    else:
        height, width = int(short * height / width), short
    if not HAS_LANCZOS:
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return F.interpolate(image, size=(height, width), mode="lanczos", antialias=True)[0].permute(1, 2, 0).numpy()


def center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """ADM's (Dhariwal and Nichol 2021): (H, W, 3) uint8 to (size, size, 3)."""
    image = Image.fromarray(pixels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 3) uint8 to (H, W, channels): as it is, or grey by ITU-R 601."""
    if channels == pixels.shape[-1]:
        return pixels
    return np.array(Image.fromarray(pixels).convert("L"))[..., None]
