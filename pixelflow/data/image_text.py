"""Images with captions: image and text files side by side, or tar shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Unpack

import numpy as np

from pixelflow.data.imagefolder import FileSource, image_paths
from pixelflow.data.images import ImageData, checked_weights, folder_name
from pixelflow.data.records import BadSample, Record, Source, Split
from pixelflow.data.sizes import size_of_files
from pixelflow.data.spec import ImageOptions
from pixelflow.data.webdataset import CACHE, ShardSet
from pixelflow.errors import UserError


class ImageText(ImageData):
    """A folder with `a.jpg` beside `a.txt` or `a.json` at any depth, or tar shards with such members.

    There are no classes: every label is 0.

    Args:
        root: Folder or shards of the training split; see `WebDataset` for the form of shards.
        held_out: Folder or shards of the held-out split.
        captions: Weights of the texts to draw from: "txt" is the text file, other names are keys of the json.
        embeddings: Whether the precomputed text tokens of prepared shards are delivered.
        shuffle_shards: Number of shards that are mixed at a time; 0 for all.
        cache_dir: Folder for tables of the shards, and for shards fetched from a URL.
        cache_gb: Limit of the fetched shards in gigabytes.
        **options: Shared options; see `ImageSpec`. `num_classes` must be 1.

    Raises:
        ValueError: An option is out of range.
    """

    labelled = False

    def __init__(
        self,
        *,
        root: str | None = None,
        held_out: str | None = None,
        captions: dict[str, float] | None = None,
        embeddings: bool = False,
        shuffle_shards: int = 64,
        cache_dir: str = CACHE,
        cache_gb: float = 100.0,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(options, name="image_text", num_classes=1)
        if self.spec.num_classes != 1:
            raise ValueError(f"num_classes={self.spec.num_classes} must be 1: image_text has captions, no classes")
        if shuffle_shards < 0:
            raise ValueError(f"shuffle_shards={shuffle_shards} must be 0 or more")
        self.captions, self.embeddings = checked_weights(captions or {"txt": 1.0}), embeddings
        self.shuffle_shards = shuffle_shards
        self.shards = ShardSet(
            root=root, held_out=held_out, cache_dir=cache_dir, cache_gb=cache_gb, retries=self.spec.reading.retries,
            texts=True,
        )  # fmt: skip

    def check(self) -> None:
        """Raises UserError unless there are images or shards, and embeddings if they are asked for."""
        folder = self._pairs("train")
        if folder is None:
            self.shards.check(num_classes=None, embeddings=self.embeddings)
        elif next(image_paths(folder), None) is None:
            raise UserError(f"root={self.shards.root} holds neither .tar files nor images")
        elif self.embeddings:
            raise UserError("embeddings=true needs shards that were prepared with a text encoder")

    def find_num_classes(self) -> int:
        """Returns 1."""
        return 1

    def find_image_size(self) -> int:
        """Returns the common size of the image files, or the size for which the shards were prepared."""
        folder = self._pairs("train")
        if folder is None:
            return self.shards.find_image_size()
        return size_of_files(folder, sorted(image_paths(folder)), max_pixels=self.spec.preprocess.max_pixels)

    def own_name(self) -> str:
        """Returns the name of the folder of the images or shards."""
        return folder_name(self.shards.root, self.spec.name)

    def open(self, split: Split) -> Source:
        """Lists the images or the samples of the shards of a split."""
        folder = self._pairs(split)
        return self.shards.open(split) if folder is None else PairSource(folder)

    def _pairs(self, split: Split) -> Path | None:
        """Returns the folder of a split if it holds image and text files, and None if it holds shards."""
        root = self.shards.path(split)
        folder = Path(root).expanduser()
        if "://" in root or root.endswith(".tar"):
            return None
        if not folder.is_dir():
            raise UserError(f"root={root} is not a folder")
        return None if (folder / "prepare.json").exists() or any(folder.glob("*.tar")) else folder


class PairSource(FileSource):
    """Every image below a folder, sorted by path, with the texts in files of the same name.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(image_paths(folder))
        super().__init__(folder, files, np.zeros(len(files), dtype=np.int32))

    def read(self, index: int) -> Record:
        """Returns the bytes of an image and its captions."""
        record = super().read(index)
        image = Path(self.where(index))
        captions = {}
        described = image.with_suffix(".json")
        if described.exists():
            try:
                content = json.loads(described.read_text(encoding="utf-8"))
                captions = {key: value for key, value in content.items() if isinstance(value, str)}
            except (ValueError, AttributeError) as error:
                raise BadSample("damaged json", str(error)) from None
        text = image.with_suffix(".txt")
        if text.exists():
            captions["txt"] = text.read_text(encoding="utf-8", errors="replace")
        return Record(key=record.key, image=record.image, captions=captions)
