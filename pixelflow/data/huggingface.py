"""A repository on the Hugging Face hub, or parquet files of the same form, through `datasets`."""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixelflow.data.images import ImageData, Split
from pixelflow.data.loader import Reading
from pixelflow.data.records import BadSample, Record
from pixelflow.data.transforms import Preprocess
from pixelflow.data.webdataset import checked_weights


class HuggingFace(ImageData):
    """repository: for example ILSVRC/imagenet-1k. root: parquet files instead, a folder or a pattern with *.

    `datasets` fetches, keeps and maps the rows as Arrow files in its own cache (cache_dir, HF_HOME by default), so that
    rows are read at random without loading a file. subset: a repository's configuration, if it has several.
    image_column, label_column: their names; label_column null for data without classes. captions: weights of the
    columns of text to choose from.
    """

    def __init__(
        self,
        *,
        repository: str | None = None,
        root: str | None = None,
        subset: str | None = None,
        train_split: str = "train",
        held_out_split: str = "validation",
        image_column: str = "image",
        label_column: str | None = "label",
        captions: dict[str, float] | None = None,
        cache_dir: str | None = None,
        image_size: int = 256,
        channels: int = 3,
        num_classes: int = 1000,
        name: str = "huggingface",
        preprocess: Preprocess | None = None,
        reading: Reading | None = None,
        reference_images: int = 5000,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, num_classes=num_classes, name=name,
            preprocess=preprocess or Preprocess(), reading=reading or Reading(), reference_images=reference_images,
        )  # fmt: skip
        self.repository, self.root, self.subset, self.cache_dir = repository, root, subset, cache_dir
        self.split_names: dict[str, str] = {"train": train_split, "held_out": held_out_split}
        self.image_column, self.label_column = image_column, label_column
        self.captions, self.labelled = checked_weights(captions or {}), label_column is not None

    def check(self) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise ValueError("data=huggingface needs the package datasets: pip install 'pixelflow[huggingface]'")
        if (self.repository is None) == (self.root is None):
            raise ValueError(
                "repository: data=huggingface needs one of data.repository=NAME and data.root=PARQUET_FILES"
            )
        if self.root is not None:
            self._files("train")

    def class_names(self) -> Sequence[str]:
        return self._rows("train").names

    def open(self, split: Split) -> RowSource:
        source = self._rows(split)
        if self.labelled and source.names and len(source.names) != self.num_classes:
            raise ValueError(f"num_classes={self.num_classes}, but the data have {len(source.names)} classes")
        return source

    def _rows(self, split: Split) -> RowSource:
        import datasets

        self.check()
        name = self.split_names[split]
        if self.root is not None:
            rows = datasets.load_dataset(
                "parquet", data_files={name: self._files(split)}, split=name, cache_dir=self.cache_dir
            )
        else:
            rows = datasets.load_dataset(self.repository, self.subset, split=name, cache_dir=self.cache_dir)
        wanted = [self.image_column, *([self.label_column] if self.label_column else []), *self.captions]
        missing = [column for column in wanted if column not in rows.column_names]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}; there are {', '.join(rows.column_names)}")
        rows = rows.select_columns(wanted).cast_column(self.image_column, datasets.Image(decode=False))
        return RowSource(rows, self.image_column, self.label_column, list(self.captions), f"{self.name} {name}")

    def _files(self, split: Split) -> list[str]:
        """Of a folder: the files of the split, by their names, if any are named after it; else all for training."""
        assert self.root is not None
        if "*" in self.root or self.root.endswith(".parquet"):
            files = sorted(glob.glob(str(Path(self.root).expanduser()), recursive=True))
        else:
            files = sorted(str(path) for path in Path(self.root).expanduser().rglob("*.parquet"))
        named = [file for file in files if Path(file).name.startswith(self.split_names[split])]
        if not files or (split == "held_out" and not named):
            raise ValueError(f"root={self.root} has no parquet files for the split {self.split_names[split]}")
        return named or files


class RowSource:
    """Rows of a `datasets.Dataset` with an image column that is not decoded."""

    def __init__(self, rows: Any, image: str, label: str | None, captions: list[str], name: str) -> None:
        self.rows, self.image, self.label, self.captions, self.name = rows, image, label, captions, name
        self.group_sizes = [len(rows)]
        self.names: Sequence[str] = getattr(rows.features.get(label), "names", None) or ()

    def where(self, index: int) -> str:
        return f"{self.name} row {index}"

    def read(self, index: int) -> Record:
        row = self.rows[index]
        image = row[self.image]
        if image is None or not image.get("bytes"):
            path = image and image.get("path")
            if not path or not Path(path).is_file():
                raise BadSample("missing image")
            image = {"bytes": Path(path).read_bytes()}
        label = row[self.label] if self.label else None
        if isinstance(label, int | np.integer) and label < 0:
            label = None  # the hub's mark of a hidden label
        return Record(
            key=f"{index:09}", image=image["bytes"], label=None if label is None else int(label),
            captions={name: row[name] for name in self.captions if isinstance(row[name], str)},
        )  # fmt: skip
