"""Options that all data sources share: the form of the batches, and how samples are cropped and read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from pixelflow.data.transforms import Preprocess
from pixelflow.limits import above, at_least, at_most


@dataclass(frozen=True)
class Reading:
    """How samples are read. These options do not change what is read.

    Args:
        workers: Number of worker processes; 0 reads in the training process. Memory is `workers * depth` batches of
            uint8 pixels, and one decoded image per worker.
        depth: Number of batches that each worker keeps ready.
        max_bad_share: Largest accepted share of damaged samples, in [0, 1].
        stall_seconds: Seconds without progress after which a worker is replaced.
        retries: Number of further attempts to read a batch or a shard before the error is reported.

    Raises:
        ValueError: A number is out of range.
    """

    workers: int = 4
    depth: int = 2
    max_bad_share: float = 0.01
    stall_seconds: float = 60.0
    retries: int = 4

    def __post_init__(self) -> None:
        at_least(0, **{"reading.workers": self.workers, "reading.retries": self.retries})
        at_least(1, **{"reading.depth": self.depth})
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"reading.max_bad_share={self.max_bad_share} must be in [0, 1]")
        above(0, **{"reading.stall_seconds": self.stall_seconds})


class ImageOptions(TypedDict, total=False):
    """The fields of `ImageSpec` as keyword arguments, for `**options: Unpack[ImageOptions]` in a constructor."""

    image_size: int
    channels: int
    num_classes: int
    name: str
    preprocess: Preprocess
    reading: Reading
    reference_images: int


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The form of the batches of a data source, and how its samples are cropped and read.

    Args:
        image_size: Height and width R of the images in pixels.
        channels: 1 (grey) or 3 (RGB).
        num_classes: Number of classes; 1 for data without classes.
        name: Name of the data in records and reports.
        preprocess: Crop and filters of encoded images.
        reading: Worker processes and limits.
        reference_images: Number of evenly spaced images that serve as the reference of the metrics; 0 for all.

    Raises:
        ValueError: A number is out of range.
    """

    image_size: int = 256
    channels: int = 3
    num_classes: int = 1000
    name: str = "data"
    preprocess: Preprocess = field(default_factory=Preprocess)
    reading: Reading = field(default_factory=Reading)
    reference_images: int = 5000

    def __post_init__(self) -> None:
        at_least(1, image_size=self.image_size, num_classes=self.num_classes)
        at_most(65_536, image_size=self.image_size)
        at_most(10_000_000, num_classes=self.num_classes)
        at_least(0, reference_images=self.reference_images)
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels} must be 1 or 3")
