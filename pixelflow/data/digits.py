"""UCI handwritten digits, as scikit-learn ships them: 1,797 scans of 8x8 pixels, no download.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelflow.data.in_memory import MemoryLoader, MemorySource
from pixelflow.data.transforms import Preprocess

Split = Literal["train", "held_out"]
HELD_OUT = 297


class Digits:
    """1,500 training and 297 held-out digits, stratified by class, enlarged from 8x8 by bicubic interpolation.

    channels: 1 for grey, 3 for the same grey in each. Raises ValueError for an image_size outside 8..64, other
    channels, or num_classes other than 10.
    """

    name = "digits"
    preprocess = Preprocess(crop="center", flip=False)
    labelled = True
    captions: Mapping[str, float] = {}

    def __init__(self, *, image_size: int = 16, channels: int = 1, num_classes: int = 10) -> None:
        if not 8 <= image_size <= 64:
            raise ValueError(f"image_size={image_size} must be in 8..64 for the digits (their scans have 8x8 pixels)")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels} must be 1 or 3")
        if num_classes != 10:
            raise ValueError(f"num_classes={num_classes} must be 10 for the digits")
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """uint8 images (N, C, R, R) and int64 labels (N,)."""
        images, labels = _digits(self.image_size, split)
        return images.expand(-1, self.channels, -1, -1), labels

    def check(self) -> None:
        """Nothing to find: the digits come with a package."""

    def class_names(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def source(self, split: Split) -> MemorySource:
        """The images one by one."""
        return MemorySource(*self.images(split), name=f"digit of {split}")

    def loader(
        self,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        report: Path | None = None,
    ) -> MemoryLoader:
        """The endless training sequence. It stays on the CPU and has no bad samples: device and report are not used."""
        images, labels = self.images("train")
        return MemoryLoader(
            images=images, labels=labels, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )


@lru_cache
def _digits(image_size: int, split: Split) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    data = load_digits()
    parts = train_test_split(np.arange(len(data.target)), test_size=HELD_OUT, random_state=0, stratify=data.target)
    index = np.sort(parts[0] if split == "train" else parts[1])
    pixels = torch.from_numpy(data.images[index]).float()[:, None] / 16 * 255
    if image_size != pixels.shape[-1]:
        pixels = F.interpolate(pixels, size=(image_size, image_size), mode="bicubic", align_corners=False)
    return pixels.clamp(0, 255).round().to(torch.uint8), torch.from_numpy(data.target[index]).long()
