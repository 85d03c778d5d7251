"""A repository on the Hugging Face hub, or parquet files of the same form, through `datasets`."""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from pixelflow.data.decode import size_of
from pixelflow.data.imagefolder import read_file
from pixelflow.data.images import ImageData, checked_weights, folder_name
from pixelflow.data.records import BadSample, Record, Split
from pixelflow.data.sizes import LOOKED_AT, common_size
from pixelflow.data.spec import ImageOptions
from pixelflow.errors import UserError, WorkFailed

FILES = 10
"""Number of parquet files whose first images are looked at for their size."""


class HuggingFace(ImageData):
    """Rows of a repository on the Hugging Face hub, or of parquet files.

    `datasets` downloads the rows and maps them as Arrow files in its own cache, so that rows are read at random without
    loading a file.

    Args:
        repository: Name on the hub, for example ILSVRC/imagenet-1k.
        root: Parquet files instead of a repository: a folder, or a pattern with *.
        subset: Configuration of the repository, if it has several.
        train_split: Name of the training split.
        held_out_split: Name of the held-out split.
        image_column: Name of the column with images.
        label_column: Name of the column with classes; None for data without classes.
        captions: Weights of the columns of text to draw from; empty for none.
        cache_dir: Cache folder of `datasets`; None for its default.
        **options: Shared options; see `ImageSpec`.

    Raises:
        ValueError: An option is out of range.
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
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(options, name="huggingface")
        self.repository, self.root, self.subset, self.cache_dir = repository, root, subset, cache_dir
        self.split_names: dict[str, str] = {"train": train_split, "held_out": held_out_split}
        self.image_column, self.label_column = image_column, label_column
        self.captions, self.labelled = checked_weights(captions), label_column is not None

    def check(self) -> None:
        """Raises UserError unless `datasets` is installed and exactly one of `repository` and `root` is given."""
        if importlib.util.find_spec("datasets") is None:
            raise UserError("this data source needs the package datasets: pip install 'pixelflow[huggingface]'")
        if (self.repository is None) == (self.root is None):
            raise UserError("repository: give one of repository=NAME and root=PARQUET_FILES")
        if self.root is not None:
            self._files("train")

    def find_num_classes(self) -> int:
        """Returns the number of classes that parquet files name; 1 without labels. A repository must be told."""
        if not self.labelled:
            return 1
        self.check()
        if self.root is None:
            raise UserError("num_classes is not given, and a repository is not downloaded to count its classes")
        import datasets
        import pyarrow.parquet as pq

        file = self._files("train")[0]
        try:
            features = datasets.Features.from_arrow_schema(pq.read_schema(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        if names := getattr(features.get(self.label_column), "names", None):
            return len(names)
        raise UserError(f"num_classes is not given, and the column {self.label_column} of {self.root} names no classes")

    def find_image_size(self) -> int:
        """Returns the common size of the first images of up to 10 parquet files. A repository must be told."""
        self.check()
        if self.root is None:
            raise UserError("image_size is not given, and a repository is not downloaded to look at its images")
        sizes, looked_at = [], 0
        files = self._files("train")
        for number in np.linspace(0, len(files), min(len(files), FILES), endpoint=False).astype(int):
            for image in _first_images(files[number], self.image_column, LOOKED_AT // FILES):
                looked_at += 1
                try:
                    content = (image.get("bytes") if isinstance(image, dict) else image) or b""
                    sizes.append(size_of(content, max_pixels=self.spec.preprocess.max_pixels))
                except BadSample:
                    continue
        return common_size(sizes, looked_at)

    def own_name(self) -> str:
        """Returns the name of the repository, or of the folder of the parquet files."""
        return folder_name(self.root or self.repository, self.spec.name)

    def class_names(self) -> Sequence[str]:
        """Returns the names of the classes, if the data have them."""
        return self._rows("train").names

    def open(self, split: Split) -> RowSource:
        """Loads a split; raises UserError if it does not fit the options, WorkFailed if it cannot be fetched."""
        source = self._rows(split)
        if self.labelled and source.names and len(source.names) != self.spec.num_classes:
            raise UserError(f"num_classes={self.spec.num_classes}, but the data have {len(source.names)} classes")
        return source

    def _rows(self, split: Split) -> RowSource:
        import datasets
        import huggingface_hub

        self.check()
        name = self.split_names[split]
        files = None if self.root is None else {name: self._files(split)}
        where, subset = (self.repository, self.subset) if files is None else ("parquet", None)
        failed = f"the split {name} of {self.root or self.repository} cannot be loaded"
        try:
            rows = datasets.load_dataset(where, subset, data_files=files, split=name, cache_dir=self.cache_dir)
        except (FileNotFoundError, ValueError) as error:  # no such repository, configuration or split
            raise UserError(f"{failed}: {error}") from error
        except (datasets.exceptions.DatasetsError, OSError) as error:
            raise WorkFailed(f"{failed}: {error}") from error
        wanted = [self.image_column, *([self.label_column] if self.label_column else []), *self.captions]
        missing = [column for column in wanted if column not in rows.column_names]
        if missing:
            raise UserError(f"no column {', '.join(missing)}; there are {', '.join(rows.column_names)}")
        rows = rows.select_columns(wanted).cast_column(self.image_column, datasets.Image(decode=False))
        folders = [Path(file).parent for file in files[name]] if files else []
        caches = (self.cache_dir, datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
        folders += [Path(cache) for cache in caches if cache]
        title = f"{self.spec.name} {name}"
        return RowSource(rows, self.image_column, self.label_column, list(self.captions), title, folders)

    def _files(self, split: Split) -> list[str]:
        """Returns the parquet files that are named after the split; for training all files, if none is."""
        assert self.root is not None
        if "*" in self.root or self.root.endswith(".parquet"):
            files = sorted(glob.glob(str(Path(self.root).expanduser()), recursive=True))
        else:
            files = sorted(str(path) for path in Path(self.root).expanduser().rglob("*.parquet"))
        named = [file for file in files if Path(file).name.startswith(self.split_names[split])]
        if not files or (split == "held_out" and not named):
            raise UserError(f"root={self.root} has no parquet files for the split {self.split_names[split]}")
        return named or files


def _first_images(file: str, column: str, count: int) -> list[dict[str, Any] | None]:
    """Returns the first entries of the column of images of a parquet file."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as rows:
            if column not in rows.schema_arrow.names:
                raise UserError(f"no column {column}; there are {', '.join(rows.schema_arrow.names)}")
            batch = next(rows.iter_batches(count, columns=[column]), None)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read: {error}") from None
    return [] if batch is None else batch.column(0).to_pylist()


class RowSource:
    """Rows of a dataset with encoded images.

    Args:
        rows: A `datasets.Dataset` whose image column is not decoded.
        image: Name of the column with images.
        label: Name of the column with classes, or None.
        captions: Names of the columns of text.
        name: Name of the rows in messages.
        folders: Folders in which image files may lie that the rows name instead of holding them.
    """

    def __init__(
        self, rows: Any, image: str, label: str | None, captions: list[str], name: str, folders: Sequence[Path]
    ) -> None:
        self.rows, self.image, self.label, self.captions, self.name = rows, image, label, captions, name
        self.folders = [folder.expanduser().resolve() for folder in folders]
        self.group_sizes = [len(rows)]
        self.names: Sequence[str] = getattr(rows.features.get(label), "names", None) or ()

    def where(self, index: int) -> str:
        """Returns the name of the split and the row."""
        return f"{self.name} row {index}"

    def read(self, index: int) -> Record:
        """Returns the image, the label and the captions of a row."""
        row = self.rows[index]
        image = row[self.image]
        if image is None or not image.get("bytes"):
            path = image and image.get("path")
            if not path or not Path(path).is_file():
                raise BadSample("missing image")
            # A row may name any file of this machine; only those that belong to the data are read.
            if not any(Path(path).resolve().is_relative_to(folder) for folder in self.folders):
                raise BadSample("file outside the data", str(path))
            image = {"bytes": read_file(path)}
        label = row[self.label] if self.label else None
        if isinstance(label, int | np.integer) and label < 0:
            label = None  # -1 marks a hidden label on the hub
        return Record(
            key=f"{index:09}", image=image["bytes"], label=None if label is None else int(label),
            captions={name: row[name] for name in self.captions if isinstance(row[name], str)},
        )  # fmt: skip
