"""The base class of the data sources that read images, and the contract of a data source.

Every option that all sources share (`image_size`, `channels`, `num_classes`, `name`, `preprocess`, `reading`,
`reference_images`) is a field of one frozen record, `ImageSpec`, which is documented and checked there. A source
declares only its own arguments and accepts the shared ones as `**options: Unpack[ImageOptions]`, so that they remain
plain keyword arguments: of the constructor, of the config group `data`, and of type checkers (PEP 692). The base class
builds the record, `self.spec`, and passes it on as a whole.

Writing a data source takes a subclass of `ImageData` with two methods:

- `__init__(self, *, <own arguments>, **options: Unpack[ImageOptions])` stores its arguments, touches no disk, and calls
  `super().__init__(options, name="...")`; further keyword arguments there replace the defaults of `ImageSpec`.
- `open(split)` returns a `Source`: `group_sizes`, `read(index) -> Record` and `where(index) -> str`. A record holds the
  bytes of an image file, which are cropped here, or finished pixels (R, R, C).

`check()`, `class_names()`, `find_num_classes()`, `find_image_size()` and `own_name()` may be overridden, and the class
attributes `labelled`, `captions`, `embeddings` and `shuffle_shards` may be set. `DataSource` lists what the rest of the
package uses; a class that fits it needs no base. Order, random crops, workers, resuming and the handling of bad samples
come with the base class.

Examples:
    >>> from typing import Unpack
    >>> import torch
    >>> from pixelflow.data import ImageData, ImageOptions, MemorySource, Reading
    >>> class Greys(ImageData):
    ...     def __init__(self, *, levels: int = 8, **options: Unpack[ImageOptions]) -> None:
    ...         super().__init__(options, name="greys", image_size=4, num_classes=2)
    ...         self.levels = levels
    ...     def open(self, split):
    ...         level = torch.arange(self.levels, dtype=torch.uint8)
    ...         return MemorySource(level[:, None, None, None].expand(-1, 3, 4, 4), level.long() % 2, name="grey level")
    >>> batch = next(iter(Greys(reading=Reading(workers=0)).loader(batch_size=4, seed=0)))
    >>> batch.x.shape, batch.condition.class_label.shape
    (torch.Size([4, 3, 4, 4]), torch.Size([4]))
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Unpack

import numpy as np
import torch
from torch import Tensor

from pixelflow.data.loader import Maker, StreamLoader
from pixelflow.data.order import EpochOrder, Order
from pixelflow.data.records import BadSample, Record, Source, Split
from pixelflow.data.spec import ImageOptions, ImageSpec
from pixelflow.data.transforms import to_channels
from pixelflow.errors import UserError
from pixelflow.types import Loader

logger = logging.getLogger(__name__)


class DataSource(Protocol):
    """The part of a data source that jobs, metrics and training use.

    Attributes:
        spec: Form of the batches.
        labelled: Whether the samples have classes; without classes every label is 0.
        captions: Weights by which one of several captions is drawn, by name; empty for data without captions.
    """

    spec: ImageSpec
    labelled: bool
    captions: Mapping[str, float]

    def check(self) -> None:
        """Raises UserError, cheaply, if the data are not where the options say."""
        ...

    def class_names(self) -> Sequence[str]:
        """Returns the names of the classes in the order of the labels, or an empty sequence."""
        ...

    def source(self, split: Split) -> Source:
        """Returns the records of a split."""
        ...

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """Returns the reference images (N, C, R, R) uint8 of the metrics and their labels (N,) int64."""
        ...

    def loader(
        self,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        report: Path | None = None,
    ) -> Loader:
        """Returns the endless training sequence; `batch_size` counts the images of all ranks together."""
        ...


class ImageData(ABC):
    """Base class of the data sources; see the module's documentation for how to write one.

    Args:
        options: Shared options that the user gave.
        defaults: Defaults of this source that differ from those of `ImageSpec`.

    Raises:
        ValueError: An option is out of range.
    """

    labelled = True
    captions: Mapping[str, float] = {}
    embeddings = False
    shuffle_shards = 0

    def __init__(self, options: ImageOptions, /, **defaults: Unpack[ImageOptions]) -> None:
        self.spec = ImageSpec(**(defaults | options))
        self._sources: dict[str, Source] = {}

    @abstractmethod
    def open(self, split: Split) -> Source:
        """Lists the samples of a split.

        Raises:
            UserError: There are no samples, or they do not fit the options.
        """

    def check(self) -> None:  # noqa: B027 - most sources override it, and data that are made need no check
        """Raises UserError, cheaply, if the data are not where the options say."""

    def class_names(self) -> Sequence[str]:
        """Returns the names of the classes in the order of the labels, or an empty sequence."""
        return ()

    def find_num_classes(self) -> int:
        """Counts the classes of data whose user has not given their number. It is cheap: no image is read.

        Raises:
            UserError: The number cannot be found; the message begins with `num_classes`.
        """
        raise UserError("num_classes is not given: give the number of classes")

    def find_image_size(self) -> int:
        """Returns the common size of images that are square and of one size; see `pixelflow.data.sizes`.

        Raises:
            UserError: There is no such size, or it cannot be found; the message begins with `image_size`.
        """
        raise UserError("image_size is not given: give the height and width of the images in pixels")

    def own_name(self) -> str:
        """Returns the name of data that the user has not named."""
        return self.spec.name

    def source(self, split: Split) -> Source:
        """Returns the result of `open`, which is called once for each split."""
        if split not in self._sources:
            self._sources[split] = self.open(split)
        return self._sources[split]

    def order(self, seed: int) -> Order:
        """Returns the order of the training samples."""
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
        """Returns the endless training sequence; see `StreamLoader` for the arguments."""
        maker = Maker(
            source=self.source("train"), order=self.order(seed), spec=self.spec, seed=seed, captions=self.captions,
            labelled=self.labelled, embeddings=self.embeddings,
        )  # fmt: skip
        return StreamLoader(
            maker=maker, batch_size=batch_size, rank=rank, world_size=world_size, device=device, report=report
        )

    def images(self, split: Split) -> tuple[Tensor, Tensor]:
        """Returns the reference of the metrics: ADM-cropped images and their labels.

        Returns:
            Images (N, C, R, R) uint8 and labels (N,) int64, with N at most `spec.reference_images`.

        Raises:
            UserError: No image of the split can be read.
        """
        images, labels = [], []
        for record, pixels in self.good(split):
            images.append(pixels)
            labels.append(record.label if self.labelled and record.label is not None else 0)
        if not images:
            raise UserError(f"{self.spec.name}: no image of the {split} split can be read")
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)

    def good(self, split: Split) -> Iterator[tuple[Record, np.ndarray]]:
        """Yields the records that `images` consists of, with their pixels (R, R, C) uint8."""
        source, spec = self.source(split), self.spec
        total = sum(source.group_sizes)
        count = min(spec.reference_images or total, total)
        bad = 0
        for index in np.linspace(0, total, count, endpoint=False).astype(int).tolist():
            try:
                record = source.read(index)
                pixels = record.image
                if isinstance(pixels, bytes):
                    pixels = spec.preprocess.evaluation_crop(pixels, spec.image_size)
                yield record, to_channels(pixels, spec.channels)
            except BadSample as error:
                bad += 1
                logger.debug("left out %s: %s", source.where(index), error)
        if bad:
            logger.warning("%s, %s: %d of %d images cannot be used", spec.name, split, bad, count)


def require_root(root: str | None, wanted: str) -> str:
    """Returns `root`.

    Args:
        root: The argument of the data source.
        wanted: Description of a valid root, for the message.

    Raises:
        UserError: No root was given.
    """
    if not root:
        raise UserError(f"root is missing: give {wanted}")
    return root


def folder_name(root: str | None, default: str) -> str:
    """Returns the name of the folder that a path, a pattern of files or a URL leads to, or `default` without one.

    Examples:
        >>> folder_name("/data/birds/", "x"), folder_name("s3://bucket/birds/train-{000..146}.tar", "x")
        ('birds', 'birds')
    """
    place, _, path = (root or "").rpartition("://")
    if re.search(r"[*{]|[.](tar|parquet)$", path):
        path = path.rpartition("/")[0] or "."
    name = (Path(path) if place else Path(path).expanduser().resolve()).name
    return name if root and name not in ("", "..") else default


def checked_weights(captions: Mapping[str, float] | None) -> dict[str, float]:
    """Returns the weights of the captions as a dictionary.

    Raises:
        ValueError: A weight is not above 0.
    """
    for name, weight in (captions or {}).items():
        if not 0 < weight < float("inf"):
            raise ValueError(f"captions.{name}={weight} must be above 0 and finite; leave it out instead")
    return dict(captions or {})
