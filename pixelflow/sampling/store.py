"""Stores images as they are drawn, one PNG each, so that an interrupted job continues with the missing ones.

A file is written under a temporary name and renamed, and the files of an earlier start are checked. PNG is lossless,
so the other forms of output are made from these files (see `outputs`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelflow.files import written_aside

THREADS = min(16, os.cpu_count() or 1)
"""Threads that encode and check images; zlib releases the global interpreter lock."""


class ImageStore:
    """RGB images by number, `folder/00000012.png`.

    Args:
        folder: Folder of the images; it need not exist.
        size: Side of the images in pixels.
    """

    def __init__(self, folder: Path, *, size: int) -> None:
        self.folder, self.size = Path(folder), size

    def path(self, sample_id: int) -> Path:
        """Returns the file of an image."""
        return self.folder / f"{sample_id:08d}.png"

    def missing(self, sample_ids: Iterable[int]) -> list[int]:
        """Returns those of `sample_ids` that are not stored. Damaged and unfinished files are removed."""
        for aside in self.folder.glob(".*.tmp"):
            aside.unlink()
        there = {path.name for path in self.folder.glob("*.png")}
        with ThreadPoolExecutor(THREADS) as pool:
            sample_ids = list(sample_ids)
            whole = pool.map(lambda i: self.path(i).name in there and self._is_whole(self.path(i)), sample_ids)
            return [i for i, good in zip(sample_ids, whole, strict=True) if not good]

    def _is_whole(self, path: Path) -> bool:
        if png_is_whole(path.read_bytes(), self.size):
            return True
        path.unlink()
        return False

    def write(self, sample_ids: Sequence[int], images: Tensor) -> None:
        """Writes images.

        Args:
            sample_ids: Their B numbers.
            images: (B, 1 or 3, R, R) uint8, on the CPU.

        Raises:
            OSError: A file cannot be written.
        """
        pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()

        def save(item: tuple[int, np.ndarray]) -> None:
            sample_id, image = item
            with written_aside(self.path(sample_id), durable=False) as aside:  # `missing` checks them
                aside.write_bytes(encode_png(image))

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(save, zip(sample_ids, pixels, strict=True)))

    def read_bytes(self, sample_id: int) -> bytes:
        """Returns the PNG of an image."""
        return self.path(sample_id).read_bytes()

    def read(self, sample_ids: Sequence[int]) -> Tensor:
        """Returns images, (B, 3, R, R) uint8."""
        with ThreadPoolExecutor(THREADS) as pool:
            pixels = list(pool.map(lambda i: np.array(Image.open(self.path(i))), sample_ids))
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def encode_png(pixels: np.ndarray) -> bytes:
    """Returns the PNG of pixels (H, W, 3) uint8."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def png_is_whole(content: bytes, size: int) -> bool:
    """Returns whether every chunk's checksum is right and the image is RGB with the given side."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            fits = image.size == (size, size) and image.mode == "RGB"
            image.verify()
            return fits
    except Exception:  # Pillow raises exceptions of many types for damaged files
        return False


class AsideWriter:
    """Writes batches in a thread, while the next ones are computed.

    It is a context manager, which waits for the last batch at the end of its block. An error of the thread is raised
    by the next call.

    Args:
        write: Receives the ids and the images, (B, C, R, R) uint8 on the CPU.
        ahead: Largest number of batches that wait.
    """

    def __init__(self, write: Callable[[Sequence[int], Tensor], None], *, ahead: int = 2) -> None:
        self._write, self._ahead = write, ahead
        self._pool = ThreadPoolExecutor(1)
        self._pending: list = []

    def __enter__(self) -> AsideWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self._wait(leave=0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def put(self, sample_ids: Sequence[int], images: Tensor) -> None:
        """Queues images, (B, C, R, R) uint8 on any device. Copying them to the CPU does not block the device."""
        if images.is_cuda:
            host = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
            host.copy_(images, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        else:
            host, copied = images, None
        self._wait(leave=self._ahead - 1)
        self._pending.append(self._pool.submit(self._save, list(sample_ids), host, copied))

    def _save(self, sample_ids: list[int], images: Tensor, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        self._write(sample_ids, images)

    def _wait(self, *, leave: int) -> None:
        while len(self._pending) > leave:
            self._pending.pop(0).result()
