"""Images with captions: files beside each other, or tar shards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from pixelflow.data.imagefolder import SUFFIXES, FileSource
from pixelflow.data.images import Split, first_files, require_root
from pixelflow.data.loader import Reading
from pixelflow.data.records import BadSample, Record, Source
from pixelflow.data.transforms import Preprocess
from pixelflow.data.webdataset import CACHE, WebDataset


class ImageText(WebDataset):
    """root: a folder with `a.jpg` beside `a.txt` or `a.json` at any depth, or shards with such members.

    captions: weights of the texts to choose from: "txt" is the text file, other names are keys of the json. There are
    no classes: every label is 0, and num_classes must be 1.
    """

    labelled = False

    def __init__(
        self,
        *,
        root: str | None = None,
        held_out: str | None = None,
        captions: dict[str, float] | None = None,
        embeddings: bool = False,
        image_size: int = 256,
        channels: int = 3,
        num_classes: int = 1,
        name: str = "image_text",
        shuffle_shards: int = 64,
        cache_dir: str = CACHE,
        cache_gb: float = 100.0,
        preprocess: Preprocess | None = None,
        reading: Reading | None = None,
        reference_images: int = 5000,
    ) -> None:
        if num_classes != 1:
            raise ValueError(f"num_classes={num_classes} must be 1: image_text has captions, no classes")
        super().__init__(
            root=root, held_out=held_out, captions=captions or {"txt": 1.0}, embeddings=embeddings,
            image_size=image_size, channels=channels, num_classes=num_classes, name=name,
            shuffle_shards=shuffle_shards, cache_dir=cache_dir, cache_gb=cache_gb, preprocess=preprocess,
            reading=reading, reference_images=reference_images,
        )  # fmt: skip

    def check(self) -> None:
        folder = self._pairs("train")
        if folder is None:
            super().check()
        elif not first_files(folder, SUFFIXES):
            raise ValueError(f"root={self.root} holds neither .tar files nor images")
        elif self.embeddings:
            raise ValueError("embeddings=true needs shards that job=prepare wrote with job.text_encoder")

    def open(self, split: Split) -> Source:
        folder = self._pairs(split)
        return super().open(split) if folder is None else PairSource(folder)

    def _pairs(self, split: Split) -> Path | None:
        """The folder, if it holds files beside each other."""
        root = require_root(self.root, "image_text", "FOLDER_OR_URL") if split == "train" else self._root(split)
        folder = Path(root).expanduser()
        if "://" in root or root.endswith(".tar"):
            return None
        if not folder.is_dir():
            raise ValueError(f"root={root} is not a folder")
        return None if (folder / "prepare.json").exists() or any(folder.glob("*.tar")) else folder


class PairSource(FileSource):
    """Every image below a folder, sorted by path, with the texts of its name."""

    def __init__(self, folder: Path) -> None:
        files = [
            os.path.relpath(os.path.join(parent, name), folder)
            for parent, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith(SUFFIXES)
        ]
        super().__init__(folder, sorted(files), np.zeros(len(files), dtype=np.int32))

    def read(self, index: int) -> Record:
        record = super().read(index)
        image = Path(self.where(index))
        captions = {}
        described = image.with_suffix(".json")
        if described.exists():
            try:
                content = json.loads(described.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BadSample("damaged json", str(error)) from None
            captions = {key: value for key, value in content.items() if isinstance(value, str)}
        text = image.with_suffix(".txt")
        if text.exists():
            captions["txt"] = text.read_text(encoding="utf-8", errors="replace")
        return Record(key=record.key, image=record.image, captions=captions)
