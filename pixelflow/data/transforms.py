"""Crops of training images and of evaluation images, as in the papers.

Training (PixelFlow): Lanczos resize of the short side to round(1.125 R), random crop of R x R, flip. Evaluation and
prepared shards (ADM): box averaging by 2 while the short side is at least 2 R, bicubic resize to R, centre crop.
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
from pixelflow.limits import at_least

ENLARGED = 1.125
"""Short side of a training image before its random crop, relative to the crop (PixelFlow, section 4.1)."""
RGB = 3


def _has_lanczos() -> bool:
    """Newer versions of torch have a vectorised Lanczos: five times as fast as Pillow, equal within 2 grey levels."""
    try:
        F.interpolate(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), size=(4, 4), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError, RuntimeError):
        return False
    return True


HAS_LANCZOS = _has_lanczos()


@dataclass(frozen=True)
class Preprocess:
    """Turns the bytes of an image file into a crop.

    Args:
        crop: "random" for the training crop of PixelFlow, "center" for the crop of ADM.
        flip: Whether half of the training images are mirrored.
        max_pixels: Images with more pixels are refused before they are decoded.
        min_side: Images with a shorter side in pixels are left out; 0 for none.
        max_aspect: Images whose longer side exceeds this multiple of the shorter side are left out; 0 for none.

    Raises:
        ValueError: A number is out of range.
    """

    crop: Literal["random", "center"] = "random"
    flip: bool = True
    max_pixels: int = 64_000_000
    min_side: int = 0
    max_aspect: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, **{"preprocess.max_pixels": self.max_pixels})
        at_least(0, **{"preprocess.min_side": self.min_side})
        if self.max_aspect and not 1 <= self.max_aspect < float("inf"):
            raise ValueError(f"preprocess.max_aspect={self.max_aspect} must be at least 1, or 0 for any")

    def stored_size(self, image_size: int) -> int:
        """Returns the side in pixels at which images must be stored so that this crop can be taken of them."""
        return round(ENLARGED * image_size) if self.crop == "random" else image_size

    def training_crop(self, data: bytes, size: int, uniform: np.ndarray) -> np.ndarray:
        """Decodes an image and takes its training crop, without the flip.

        Args:
            data: The encoded image.
            size: Height and width of the crop.
            uniform: Two uniform random numbers in [0, 1), the position of the crop from top and left.

        Returns:
            (size, size, 3) uint8.

        Raises:
            BadSample: The image is damaged or does not pass the filters.
        """
        self._filter(data)
        if self.crop == "center":
            return center_crop(decode(data, max_pixels=self.max_pixels), size)
        short = round(ENLARGED * size)
        pixels = resize_short_side(decode(data, max_pixels=self.max_pixels, shortest=short), short)
        top, left = (int(u * (length - size + 1)) for u, length in zip(uniform, pixels.shape[:2], strict=False))
        return pixels[top : top + size, left : left + size]

    def evaluation_crop(self, data: bytes, size: int) -> np.ndarray:
        """Decodes an image in full and takes the crop of ADM, (size, size, 3) uint8; raises BadSample."""
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
    """Resizes an image by Lanczos, (H, W, 3) uint8, so that its short side is `short`.

    The long side is rounded down, as torchvision's Resize does.
    """
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
    """Takes the centre crop of ADM (Dhariwal and Nichol, 2021): (H, W, 3) uint8 to (size, size, 3)."""
    image = Image.fromarray(pixels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Converts (H, W, 3) uint8 to (H, W, channels): unchanged, or grey by ITU-R 601."""
    if channels == pixels.shape[-1]:
        return pixels
    return np.array(Image.fromarray(pixels).convert("L"))[..., None]
