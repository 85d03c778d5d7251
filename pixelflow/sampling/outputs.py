"""The three forms of output: a folder of PNGs, an .npz of the ADM suite, WebDataset shards.

Each is made from the files of an `ImageStore`. Files are written under a temporary name and renamed.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.files import written_aside
from pixelflow.sampling.store import ImageStore, png_is_whole

Format = Literal["npz", "png", "shards"]
READ_AT_ONCE = 256
"""Images that are read together while the .npz is written."""


class PngOutput:
    """Writes one PNG for each image, `folder/images/00000012.png`.

    Args:
        folder: Folder of the output.
        labels: Classes of all images, (N,) int64.
        size: Side of the images in pixels.
    """

    def __init__(self, folder: Path, *, labels: Tensor, size: int) -> None:
        self.folder, self.labels = Path(folder), labels
        self.store = ImageStore(self.folder / "images", size=size)

    @property
    def path(self) -> Path:
        """Path of the finished output."""
        return self.store.folder

    def missing(self) -> list[int]:
        """Returns the numbers of the images that are missing. Damaged and unfinished files are removed."""
        for aside in self.folder.glob(".*.tmp"):
            aside.unlink()
        return self.store.missing(range(len(self.labels)))

    def finish(self) -> None:
        """Brings the output into its final form. No image may be missing."""

    @contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """Turns an OSError of the block into a WorkFailed that states the number of images that are kept."""
        try:
            yield
        except OSError as error:
            there = len(list(self.store.folder.glob("*.png")))
            raise WorkFailed(
                f"images could not be written to {self.folder}: {error.strerror or error}; "
                f"{there} of {len(self.labels)} are kept, and the same command computes the others"
            ) from error


class NpzOutput(PngOutput):
    """Writes `folder/images.npz` with `arr_0` uint8 (N, R, R, 3) and `arr_1` int64 (N,), the labels."""

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.folder / "images.npz"

    def missing(self) -> list[int]:
        """Returns the numbers of the images that are missing; none if the file is complete."""
        if self.path.exists():
            if self._is_whole():
                return []
            self.path.unlink()
        return super().missing()

    def finish(self) -> None:
        """Writes the file and removes the PNGs."""
        if not self.path.exists():
            shape = (len(self.labels), self.store.size, self.store.size, 3)
            # numpy.savez would need all images in memory; an .npz is a zip of .npy files.
            with written_aside(self.path) as aside, zipfile.ZipFile(aside, "w") as archive:
                with archive.open("arr_0.npy", "w", force_zip64=True) as stream:
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(stream, header)
                    for start in range(0, len(self.labels), READ_AT_ONCE):
                        ids = range(start, min(start + READ_AT_ONCE, len(self.labels)))
                        stream.write(self.store.read(ids).permute(0, 2, 3, 1).numpy().tobytes())
                with archive.open("arr_1.npy", "w") as stream:
                    np.lib.format.write_array(stream, self.labels.numpy())
        shutil.rmtree(self.store.folder, ignore_errors=True)

    def _is_whole(self) -> bool:
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.testzip() is not None:
                    return False
            with np.load(self.path, allow_pickle=False) as arrays:
                return bool(np.array_equal(arrays["arr_1"], self.labels.numpy()))
        except Exception:  # zipfile and numpy raise exceptions of many types for damaged files
            return False


class ShardOutput(PngOutput):
    """WebDataset shards, `folder/shard_00003.tar`, with `<number>.png` and `<number>.cls` for each image.

    Args:
        folder: Folder of the output.
        labels: Classes of all images, (N,) int64.
        size: Side of the images in pixels.
        per_shard: Images in a shard; the last one may have fewer.
    """

    def __init__(self, folder: Path, *, labels: Tensor, size: int, per_shard: int) -> None:
        super().__init__(folder, labels=labels, size=size)
        self.per_shard = per_shard

    @property
    def path(self) -> Path:
        """The shards as a brace pattern, `folder/shard_{00000..00003}.tar`."""
        return self.folder / f"shard_{{00000..{len(self._shards()) - 1:05d}}}.tar"

    def _shards(self) -> dict[Path, range]:
        count = len(self.labels)
        starts = range(0, count, self.per_shard)
        return {
            self.folder / f"shard_{number:05d}.tar": range(start, min(start + self.per_shard, count))
            for number, start in enumerate(starts)
        }

    def missing(self) -> list[int]:
        """Returns the numbers of the images that are neither in a complete shard nor stored as a PNG."""
        wanted: list[int] = []
        for path, ids in self._shards().items():
            if path.exists() and not self._is_whole(path, ids):
                path.unlink()
            if not path.exists():
                wanted += ids
        return self.store.missing(wanted)

    def finish(self) -> None:
        """Writes the shards that are missing and removes the PNGs."""
        from webdataset import TarWriter

        for path, ids in self._shards().items():
            if path.exists():
                continue
            with written_aside(path) as aside, open(aside, "wb") as stream, TarWriter(stream, mtime=0) as tar:
                for i in ids:
                    tar.write({"__key__": f"{i:08d}", "png": self.store.read_bytes(i), "cls": int(self.labels[i])})
        shutil.rmtree(self.store.folder, ignore_errors=True)

    def _is_whole(self, path: Path, ids: Sequence[int]) -> bool:
        expected = {f"{i:08d}.png" for i in ids} | {f"{i:08d}.cls" for i in ids}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    stem, _, kind = member.name.partition(".")
                    good = (
                        png_is_whole(content, self.store.size)
                        if kind == "png"
                        else int(content) == self.labels[int(stem)]
                    )
                    if not good:
                        return False
                    expected.discard(member.name)
        except Exception:  # a damaged tar raises exceptions of many types
            return False
        return not expected


def make_output(form: Format, folder: Path, *, labels: Tensor, size: int, per_shard: int) -> PngOutput:
    """Returns the output of a form.

    Args:
        form: "png", "npz" or "shards".
        folder: Folder of the output.
        labels: Classes of all images, (N,) int64.
        size: Side of the images in pixels.
        per_shard: Images in a shard; used by "shards" only.
    """
    if form == "shards":
        return ShardOutput(folder, labels=labels, size=size, per_shard=per_shard)
    return (NpzOutput if form == "npz" else PngOutput)(folder, labels=labels, size=size)
