"""What all options of the data group share that read images from somewhere."""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pixelflow.data.loader import Maker, Reading, StreamLoader
from pixelflow.data.order import EpochOrder, Order
from pixelflow.data.records import BadSample, Record, Source
from pixelflow.data.transforms import Preprocess, to_channels

logger = logging.getLogger(__name__)

Split = Literal["train", "held_out"]


class ImageData(ABC):
    """A data option; `open(split)` gives its records. Constructing one touches no disk, `check()` does.

    image_size, channels, num_classes: of the batches. name: what the data are called in records and reports.
    reference_images: how many, evenly spaced, `images()` puts into memory for the metrics; 0 for all.
    captions: weights of the captions to choose from. labelled: whether there are classes.
    """

    captions: Mapping[str, float] = {}
    labelled = True
    embeddings = False
    shuffle_shards = 0

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        num_classes: int,
        name: str,
        preprocess: Preprocess,
        reading: Reading,
        reference_images: int,
    ) -> None:
        for key, value, least in (("image_size", image_size, 1), ("num_classes", num_classes, 1),
                                  ("reference_images", reference_images, 0)):  # fmt: skip
            if value < least:
                raise ValueError(f"{key}={value} must be at least {least}")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels} must be 1 or 3")
        self.image_size, self.channels, self.num_classes, self.name = image_size, channels, num_classes, name
        self.preprocess, self.reading, self.reference_images = preprocess, reading, reference_images
        self._sources: dict[str, Source] = {}

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError, cheaply, if the data are not where the config says."""

    @abstractmethod
    def open(self, split: Split) -> Source:
        """List the samples. Raises ValueError if there are none or they do not fit the config."""

    def class_names(self) -> Sequence[str]:
        """Of the labels, where the data name them."""
        return ()

    def source(self, split: Split) -> Source:
        """`open`, once."""
        if split not in self._sources:
            self._sources[split] = self.open(split)
        return self._sources[split]

    def order(self, seed: int) -> Order:
        """Of the training samples."""
        return EpochOrder(sizes=self.source("train").group_sizes, seed=seed, window=self.shuffle_shards)

    def loader(
        self,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        report: Path | None = None,
    ) -> StreamLoader:
        """The endless training sequence; see `StreamLoader`."""
        maker = Maker(
            source=self.source("train"), order=self.order(seed), preprocess=self.preprocess,
            image_size=self.image_size, channels=self.channels, num_classes=self.num_classes, seed=seed,
            captions=self.captions, labelled=self.labelled, embeddings=self.embeddings,
        )  # fmt: skip
        return StreamLoader(
            maker=maker, reading=self.reading, batch_size=batch_size, rank=rank, world_size=world_size, device=device,
            report=report,
        )  # fmt: skip

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """uint8 images (N, C, R, R), ADM-cropped, and int64 labels (N,): the reference of the metrics."""
        images, labels = [], []
        for record, pixels in self.good(split):
            images.append(pixels)
            labels.append(record.label if self.labelled and record.label is not None else 0)
        if not images:
            raise ValueError(f"{self.name}: no image of the {split} split can be read")
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)

    def good(self, split: Split) -> Iterator[tuple[Record, np.ndarray]]:
        """The records that `images()` is made of, with their pixels (R, R, C)."""
        source = self.source(split)
        total = sum(source.group_sizes)
        count = min(self.reference_images or total, total)
        bad = 0
        for index in np.linspace(0, total, count, endpoint=False).astype(int).tolist():
            try:
                record = source.read(index)
                pixels = record.image
                if isinstance(pixels, bytes):
                    pixels = self.preprocess.evaluation_crop(pixels, self.image_size)
                yield record, to_channels(pixels, self.channels)
            except BadSample as error:
                bad += 1
                logger.debug("left out %s: %s", source.where(index), error)
        if bad:
            logger.warning("%s, %s: %d of %d images cannot be used", self.name, split, bad, count)


def require_root(root: str | None, option: str, wanted: str) -> str:
    """Raises ValueError naming the key unless a root was given."""
    if not root:
        raise ValueError(f"root is missing: data={option} needs data.root={wanted}")
    return root


def first_files(root: Path, suffixes: Sequence[str], count: int = 1) -> list[Path]:
    """A few files with one of the suffixes, found without listing everything."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return list(itertools.islice(found, count))
