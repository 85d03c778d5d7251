"""A folder of images with one folder for each class, as ImageNet has it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from pixelflow.data.fingerprint import digest
from pixelflow.data.images import ImageData, folder_name, require_root
from pixelflow.data.records import BadSample, Record, Split
from pixelflow.data.sizes import size_of_files
from pixelflow.data.spec import ImageOptions
from pixelflow.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
SIZES = 1000
"""Number of files whose sizes tell one copy of the data from another, such as a smaller one with the same names."""


class ImageFolder(ImageData):
    """Images in `root/train/<class>/` and `root/val/<class>/`, or in `root/<class>/` for training alone.

    Labels count the class folders in sorted order, as torchvision does.

    Args:
        root: The folder.
        **options: Shared options; see `ImageSpec`.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, *, root: str | None = None, **options: Unpack[ImageOptions]) -> None:
        super().__init__(options, name="imagefolder")
        self.root = root

    def check(self) -> None:
        """Raises UserError unless the folder exists and has `num_classes` class folders."""
        folder = self._folder("train")
        classes = _classes(folder)
        if len(classes) != self.spec.num_classes:
            raise UserError(
                f"num_classes={self.spec.num_classes}, but {folder} has {len(classes)} class folders"
                + ("" if classes else ": images must lie in one folder for each class")
            )

    def class_names(self) -> Sequence[str]:
        """Returns the names of the class folders."""
        return _classes(self._folder("train"))

    def find_num_classes(self) -> int:
        """Returns the number of class folders."""
        folder = self._folder("train")
        if not (classes := _classes(folder)):
            raise UserError(
                f"num_classes is not given, and {folder} has no class folders: images must lie in one folder for each "
                "class"
            )
        return len(classes)

    def find_image_size(self) -> int:
        """Returns the common size of the training images, of which up to 1,000 are looked at."""
        listed = self._listed("train")
        names = [listed.name(index) for index in range(sum(listed.group_sizes))]
        return size_of_files(listed.folder, names, max_pixels=self.spec.preprocess.max_pixels)

    def own_name(self) -> str:
        """Returns the name of the folder."""
        return folder_name(self.root, self.spec.name)

    def open(self, split: Split) -> FileSource:
        """Lists the files of a split; raises UserError if there are none."""
        self.check()
        return self._listed(split)

    def _listed(self, split: Split) -> FileSource:
        folder, classes = self._folder(split), _classes(self._folder("train"))
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            inside = sorted(image_paths(folder / name))
            files += [f"{name}/{file}" for file in inside]
            labels += [label] * len(inside)
        if not files:
            raise UserError(f"root={self.root}: {folder} holds no images")
        return FileSource(folder, files, np.array(labels, dtype=np.int32))

    def _folder(self, split: Split) -> Path:
        root = Path(require_root(self.root, "a folder with train/CLASS/*.jpg")).expanduser()
        if not root.is_dir():
            local = ": images are read from a folder, shards from an address (data=webdataset)"
            raise UserError(f"root={self.root} is not a folder{local if '://' in str(self.root) else ''}")
        if split == "train":
            return root / "train" if (root / "train").is_dir() else root
        if not (root / "val").is_dir():
            raise UserError(f"root={self.root} has no val folder; use the train split as the reference")
        return root / "val"


class FileSource:
    """Image files below a folder, one per sample.

    Args:
        folder: The folder.
        files: Paths relative to it.
        labels: (N,) classes.
    """

    def __init__(self, folder: Path, files: Sequence[str], labels: np.ndarray) -> None:
        self.folder, self.labels = folder, labels
        # One block of bytes: reference counting would copy a list of a million strings page by page into every worker.
        self._names = np.array([file.encode("utf-8", "surrogateescape") for file in files])
        self.group_sizes = [len(files)]

    def name(self, index: int) -> str:
        """Returns the path of a file relative to the folder."""
        return self._names[index].decode("utf-8", "surrogateescape")

    def hashes(self) -> dict[str, str]:
        """Returns hashes of the names of all files and of the sizes of some, which do not depend on the folder."""
        some = np.linspace(0, len(self._names), min(len(self._names), SIZES), endpoint=False).astype(int)
        return {
            "names": digest(self.name(index) for index in range(len(self._names))),
            "sizes": digest(str(_size(self.where(index))) for index in some),
        }

    def where(self, index: int) -> str:
        """Returns the path of a file."""
        return str(self.folder / self.name(index))

    def read(self, index: int) -> Record:
        """Returns the bytes and the label of a file."""
        return Record(key=self.name(index), image=read_file(self.where(index)), label=int(self.labels[index]))


def read_file(path: str) -> bytes:
    """Returns the bytes of a file.

    Raises:
        BadSample: The file is missing or may not be read.
    """
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.read()
    except FileNotFoundError:
        raise BadSample("missing file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise BadSample("unreadable file", str(error.strerror)) from None


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def image_paths(folder: Path) -> Iterator[str]:
    """Yields the images at any depth below `folder`, relative to it."""
    for parent, _, names in os.walk(folder):
        inside = os.path.relpath(parent, folder)
        for name in names:
            if name.lower().endswith(SUFFIXES):
                yield name if inside == "." else os.path.join(inside, name)


def _classes(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
