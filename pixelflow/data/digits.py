"""UCI handwritten digits, as scikit-learn ships them: 1,797 scans of 8x8 pixels, no download.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelflow.data.in_memory import MemoryLoader, MemorySource
from pixelflow.data.records import Split
from pixelflow.data.spec import ImageSpec
from pixelflow.data.transforms import Preprocess

HELD_OUT = (
    "000004883524104000064100934205001a00080100200028062812001000940a0080111204001880020110a000080a8020441504480240a00"
    "a2000004000980000800020004805c400104000a0100005404800301000020ec009000024040083a8013c00a6980a0000000308400804a018"
    "0802024041400080040044043642010216004400004040a080180a5000840981618408108008000c00c02000068a000008820081003808038"
    "008190000100e01000010a02100322829004044c88028020102030002000822a2402c24042108a8408090c0201402821202100138041500"
)
"""The held-out digits as bits in the order of the file, drawn once by scikit-learn, stratified, with random_state=0."""


class Digits:
    """1,500 training and 297 held-out digits, stratified by class, enlarged from 8x8 by bicubic interpolation.

    Args:
        image_size: Height and width in pixels, 8 to 64.
        channels: 1 for grey, 3 for the same grey in each channel.
        num_classes: 10.

    Raises:
        ValueError: An argument is out of range.
    """

    labelled = True
    captions: Mapping[str, float] = {}

    def __init__(self, *, image_size: int = 16, channels: int = 1, num_classes: int = 10) -> None:
        if not 8 <= image_size <= 64:
            raise ValueError(f"image_size={image_size} must be in 8..64 for the digits (their scans have 8x8 pixels)")
        if num_classes != 10:
            raise ValueError(f"num_classes={num_classes} must be 10 for the digits")
        self.spec = ImageSpec(
            image_size=image_size, channels=channels, num_classes=num_classes, name="digits",
            preprocess=Preprocess(crop="center", flip=False), reference_images=0,
        )  # fmt: skip

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """Returns the images (N, C, R, R) uint8 and the labels (N,) int64 of a split."""
        images, labels = _digits(self.spec.image_size, split)
        return images.expand(-1, self.spec.channels, -1, -1), labels

    def check(self) -> None:
        """Does nothing: the digits come with scikit-learn."""

    def class_names(self) -> list[str]:
        """Returns "0" to "9"."""
        return [str(digit) for digit in range(10)]

    def source(self, split: Split) -> MemorySource:
        """Returns the images of a split as records."""
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
        """Returns the endless training sequence. It stays on the CPU, and `device` and `report` are not used."""
        images, labels = self.images("train")
        return MemoryLoader(
            images=images, labels=labels, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )


@lru_cache
def _digits(image_size: int, split: Split) -> tuple[Tensor, Tensor]:
    rows = _rows()
    held_out = np.unpackbits(np.frombuffer(bytes.fromhex(HELD_OUT), np.uint8), count=len(rows)).astype(bool)
    rows = rows[held_out if split == "held_out" else ~held_out]
    pixels = torch.from_numpy(rows[:, :-1].reshape(-1, 8, 8)).float()[:, None] / 16 * 255
    if image_size != pixels.shape[-1]:
        pixels = F.interpolate(pixels, size=(image_size, image_size), mode="bicubic", align_corners=False)
    return pixels.clamp(0, 255).round().to(torch.uint8), torch.from_numpy(rows[:, -1]).long()


def _rows() -> np.ndarray:
    """Returns for each digit its 64 values of 0 to 16 and its class, from the file of the scikit-learn package."""
    package = importlib.util.find_spec("sklearn")  # sklearn.datasets.load_digits imports scipy and pandas, for seconds
    assert package is not None and package.submodule_search_locations is not None
    return np.loadtxt(Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz"), delimiter=",")
