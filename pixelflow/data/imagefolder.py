"""A folder of images with one folder for each class, as ImageNet has it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixelflow.data.images import ImageData, Split, require_root
from pixelflow.data.loader import Reading
from pixelflow.data.records import BadSample, Record
from pixelflow.data.transforms import Preprocess

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


class ImageFolder(ImageData):
    """`root/train/<class>/*.jpg` and `root/val/<class>/*.jpg`, or `root/<class>/*.jpg` for training alone.

    Labels count the class folders in sorted order, as torchvision does.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        image_size: int = 256,
        channels: int = 3,
        num_classes: int = 1000,
        name: str = "imagefolder",
        preprocess: Preprocess | None = None,
        reading: Reading | None = None,
        reference_images: int = 5000,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, num_classes=num_classes, name=name,
            preprocess=preprocess or Preprocess(), reading=reading or Reading(), reference_images=reference_images,
        )  # fmt: skip
        self.root = root

    def check(self) -> None:
        folder = self._folder("train")
        classes = _classes(folder)
        if len(classes) != self.num_classes:
            raise ValueError(
                f"num_classes={self.num_classes}, but {folder} has {len(classes)} class folders"
                + ("" if classes else ": images must lie in one folder for each class")
            )

    def class_names(self) -> Sequence[str]:
        return _classes(self._folder("train"))

    def open(self, split: Split) -> FileSource:
        self.check()
        folder, classes = self._folder(split), _classes(self._folder("train"))
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            inside = _files(folder / name)
            files += [f"{name}/{file}" for file in inside]
            labels += [label] * len(inside)
        if not files:
            raise ValueError(f"root={self.root}: {folder} holds no images")
        return FileSource(folder, files, np.array(labels, dtype=np.int32))

    def _folder(self, split: Split) -> Path:
        root = Path(require_root(self.root, "imagefolder", "FOLDER with train/CLASS/*.jpg")).expanduser()
        if not root.is_dir():
            raise ValueError(f"root={self.root} is not a folder")
        if split == "train":
            return root / "train" if (root / "train").is_dir() else root
        if not (root / "val").is_dir():
            raise ValueError(f"root={self.root} has no val folder: use metrics.reference=train")
        return root / "val"


class FileSource:
    """Files below `folder`, one a sample. labels: (N,)."""

    def __init__(self, folder: Path, files: Sequence[str], labels: np.ndarray) -> None:
        self.folder, self.labels = folder, labels
        # One block of bytes: a list of a million strings is copied page by page into every worker that counts them.
        self._names = np.array([file.encode("utf-8", "surrogateescape") for file in files])
        self.group_sizes = [len(files)]

    def name(self, index: int) -> str:
        return self._names[index].decode("utf-8", "surrogateescape")

    def where(self, index: int) -> str:
        return str(self.folder / self.name(index))

    def read(self, index: int) -> Record:
        return Record(key=self.name(index), image=read_file(self.where(index)), label=int(self.labels[index]))


def read_file(path: str) -> bytes:
    """Raises BadSample for a file that is gone, locked or empty."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.read()
    except FileNotFoundError:
        raise BadSample("missing file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise BadSample("unreadable file", str(error.strerror)) from None


def _classes(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> list[str]:
    """Images below a class folder, sorted, with their path in it."""
    found = []
    for parent, _, names in os.walk(folder):
        inside = os.path.relpath(parent, folder)
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        found += images if inside == "." else [os.path.join(inside, name) for name in images]
    return sorted(found)
