"""Finished images on disk, read without a crop: a folder of files, an .npz of the ADM suite, or tar shards.

Images are read in the order of their names, a few at a time, so that memory does not grow with their number.

Shape legend: B images of one read, N all images, C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelflow.data.decode import FORMATS
from pixelflow.data.npy import npy_header, read_npy
from pixelflow.data.shards import ABSENT, IMAGE, LABEL, scan
from pixelflow.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EIGHT_BIT = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
THREADS = 8
MAX_PIXELS = 64_000_000
"""Largest accepted number of pixels of an image, which bounds the memory: a few bytes can decode to any size."""


class ImageFiles(ABC):
    """Images on disk with random access.

    Attributes:
        path: Their folder or file.
        count: Their number N.
        labels: (N,) int64, or None.
    """

    path: Path
    count: int
    labels: Tensor | None = None

    @abstractmethod
    def read(self, ids: Sequence[int]) -> Tensor:
        """Returns the images with the given numbers, (B, C, H, W) uint8.

        Raises:
            UserError: A file cannot be read or has another size than the first one.
        """

    @abstractmethod
    def files(self) -> list[Path]:
        """Returns the files that hold the images."""

    def side(self) -> int:
        """Returns the width of the first image in pixels."""
        return self.read([0]).shape[-1]

    def listing(self) -> str:
        """Returns a hash of the names, sizes and times of the files. It is cheap and changes when a file changes."""
        digest = hashlib.sha256()
        for path in self.files():
            stat = path.stat()
            digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def content(self) -> str:
        """Returns a hash of the names and contents of all files, which are read. It does not depend on the folder."""
        digest = hashlib.sha256()
        for path in self.files():
            with open(path, "rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            name = path.relative_to(self.path).as_posix() if path != self.path else ""
            digest.update(f"{name} {found}\n".encode())
        return digest.hexdigest()


def open_images(path: Path) -> ImageFiles:
    """Opens a folder written by job=sample, any folder of images, an .npz, or a folder of tar shards.

    Args:
        path: The folder or the .npz.

    Raises:
        UserError: There are no images, or they cannot be used.
    """
    if path.is_dir() and (path / "images.npz").exists():
        path = path / "images.npz"
    if not path.is_dir():
        return NpzImages(path)
    if shards := sorted(path.glob("*.tar")):
        return ShardImages(path, shards)
    if (path / "images").is_dir() and (path / "record.json").exists():
        return FolderImages(path / "images", labels=path / "record.json")
    return FolderImages(path)


class FolderImages(ImageFiles):
    """Image files at any depth below a folder.

    Args:
        path: The folder.
        labels: Record of job=sample with the list of classes, which repeats along the images; or None.

    Raises:
        UserError: There are no images, or the first one or the record cannot be read.
    """

    def __init__(self, path: Path, *, labels: Path | None = None) -> None:
        self.path = path
        found = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        self._files = sorted(found, key=lambda p: p.relative_to(path).as_posix())
        if not self._files:
            raise UserError(f"{path} holds no .png, .jpg or .webp images, no .npz and no tar shards")
        self.count = len(self._files)
        if labels is not None:
            try:
                classes = json.loads(labels.read_text(encoding="utf-8"))["class_list"]
                self.labels = torch.tensor(classes)[torch.arange(self.count) % len(classes)]
            except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RuntimeError) as error:
                raise UserError(f"{labels} cannot be read: {error!r}; remove it to use the images alone") from None
        self._first = decode(self._files[0].read_bytes(), self._files[0]).shape

    def files(self) -> list[Path]:
        """Returns the files that hold the images."""
        return self._files

    def read(self, ids: Sequence[int]) -> Tensor:
        """Returns images; see `ImageFiles.read`."""

        def one(i: int) -> np.ndarray:
            file = self._files[i]
            pixels = decode(file.read_bytes(), file)
            if pixels.shape != self._first:
                raise UserError(f"{file} has {pixels.shape[:2]} pixels, {self._files[0].name} has {self._first[:2]}")
            return pixels

        with ThreadPoolExecutor(THREADS) as pool:
            return as_tensor(list(pool.map(one, ids)))


class NpzImages(ImageFiles):
    """An .npz with `arr_0`, uint8 (N, H, W, C), and optionally `arr_1`, the labels; compressed or not.

    Args:
        path: The file, which is read in pieces.

    Raises:
        UserError: The file cannot be read or does not hold images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if "arr_0" not in names:
                    raise ValueError(f"it has no arr_0 (it has {', '.join(names) or 'nothing'})")
                with archive.open("arr_0.npy") as stream:
                    self.shape, fortran, self.dtype = npy_header(stream)
                    self._offset = stream.tell()
                stored = archive.getinfo("arr_0.npy").file_size - self._offset
                if stored != math.prod(self.shape) * self.dtype.itemsize:
                    raise ValueError(f"arr_0 has {stored} bytes of values, and not those of {self.shape} {self.dtype}")
                if fortran:
                    raise ValueError("arr_0 is in Fortran order; save it with numpy.ascontiguousarray")
                labels = _labels(archive, self.shape[:1]) if "arr_1" in names else None
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path} cannot be read as an .npz of images: {error}") from None
        if self.dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] not in (1, 3) or not self.shape[0]:
            raise UserError(f"{path}: arr_0 must be uint8 (N, H, W, C), got {self.dtype} {self.shape}")
        try:
            _bound(*self.shape[1:3])
        except ValueError as error:
            raise UserError(f"{path}: an image is too large: {error}") from None
        self.count, self.labels = self.shape[0], labels

    def files(self) -> list[Path]:
        """Returns the files that hold the images."""
        return [self.path]

    def read(self, ids: Sequence[int]) -> Tensor:
        """Returns images; see `ImageFiles.read`."""
        size = int(np.prod(self.shape[1:]))
        images = []
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as stream:
                for i in ids:
                    stream.seek(self._offset + i * size)
                    content = stream.read(size)
                    images.append(np.frombuffer(content, np.uint8).reshape(self.shape[1:]))
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{self.path} is damaged: image {ids[len(images)]} cannot be read: {error}") from None
        return as_tensor(images)


def _labels(archive: zipfile.ZipFile, shape: tuple[int, ...]) -> Tensor | None:
    """Reads arr_1, one class per image. A small file can unpack to any size, so the header is read first."""
    with archive.open("arr_1.npy") as stream:
        found, _, dtype = npy_header(stream)
    if found != shape or dtype.kind not in "iuf" or archive.getinfo("arr_1.npy").file_size > 8 * shape[0] + 10_000:
        raise ValueError(f"arr_1 must hold one class for each of the {shape[0]} images, got {dtype} {found}")
    labels = read_npy(archive.read("arr_1.npy"))
    if not (labels >= 0).all() or not (labels < 2**31).all() or not (labels == np.floor(labels)).all():
        raise ValueError("arr_1 must hold classes, which are integers of at least 0")
    return torch.from_numpy(labels.astype(np.int64))


class ShardImages(ImageFiles):
    """Tar shards in the order of their names, as written by job=sample and job=prepare.

    Args:
        path: The folder.
        shards: The shards in it.

    Raises:
        UserError: A shard cannot be read, or a sample has no image.
    """

    def __init__(self, path: Path, shards: list[Path]) -> None:
        self.path, self._shards = path, shards
        self._tables = [scan(shard) for shard in shards]
        for shard, table in zip(shards, self._tables, strict=True):
            if len(table) and (table[:, IMAGE, 0] == ABSENT).any():
                raise UserError(f"{shard} holds samples without an image")
        self._ends = np.cumsum([len(table) for table in self._tables])
        self.count = int(self._ends[-1])
        if not self.count:
            raise UserError(f"{path}: the shards hold no images")
        if all((table[:, LABEL, 0] != ABSENT).all() for table in self._tables):
            texts = [self._member(i, LABEL) for i in range(self.count)]
            try:
                self.labels = torch.tensor([int(text) for text in texts])
            except (ValueError, RuntimeError) as error:  # RuntimeError: beyond 64 bits
                raise UserError(f"{path}: a label is not a number: {error}") from None
        self._first = decode(self._member(0, IMAGE), self._shards[0]).shape

    def files(self) -> list[Path]:
        """Returns the files that hold the images."""
        return self._shards

    def _member(self, i: int, column: int) -> bytes:
        shard = int(np.searchsorted(self._ends, i, side="right"))
        begin, size = self._tables[shard][i - int(self._ends[shard] - len(self._tables[shard])), column].tolist()
        with open(self._shards[shard], "rb") as stream:
            stream.seek(begin)
            return stream.read(size)

    def read(self, ids: Sequence[int]) -> Tensor:
        """Returns images; see `ImageFiles.read`."""

        def one(i: int) -> np.ndarray:
            pixels = decode(self._member(i, IMAGE), f"image {i} of {self.path}")
            if pixels.shape != self._first:
                raise UserError(f"image {i} of {self.path} has {pixels.shape[:2]} pixels, not {self._first[:2]}")
            return pixels

        with ThreadPoolExecutor(THREADS) as pool:
            return as_tensor(list(pool.map(one, ids)))


def decode(content: bytes, file: object) -> np.ndarray:
    """Decodes an image.

    Args:
        content: The encoded image.
        file: Its name in messages.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: The image is damaged or has more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _bound(image.height, image.width)
            if image.mode not in EIGHT_BIT:
                raise ValueError(f"its pixels are of mode {image.mode}, not of 8 bits")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        raise UserError(f"{file} cannot be read: {error}") from None


def _bound(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, at most {MAX_PIXELS:,} are accepted")


def as_tensor(images: list[np.ndarray]) -> Tensor:
    """Stacks B images (H, W, C) to (B, C, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
