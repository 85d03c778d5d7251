"""Crops, encodes and checks records as the members of tar shards, in worker processes and in order."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from pixelflow.data.dirty import Found
from pixelflow.data.records import BadSample, Record, Source
from pixelflow.data.transforms import Preprocess, center_crop, to_channels
from pixelflow.errors import WorkFailed

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "png": ("PNG", {"compress_level": 6}),
    "webp": ("WEBP", {"method": 4}),
}
"""Name and settings of Pillow by file extension."""


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """The form of prepared shards.

    Args:
        size: Height and width of the ADM-cropped images in pixels.
        format: Format of the image files.
        quality: Quality of jpg and webp files, 1 to 100.
        samples_per_shard: Number of samples in each shard.

    Raises:
        ValueError: An argument is out of range.
    """

    size: int
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = 95
    samples_per_shard: int = 1000

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format} must be one of {', '.join(FORMATS)}")
        for name, most in (("size", 16384), ("quality", 100), ("samples_per_shard", 1_000_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)} must be in 1..{most}")


@dataclass(frozen=True)
class Encoded:
    """The members of one sample by extension and its caption, or the reason why the sample cannot be used."""

    index: int
    members: dict[str, bytes] | None
    caption: str
    bad: Found | None


@dataclass(frozen=True)
class Encoder:
    """Crops and encodes samples.

    Args:
        source: The records.
        preprocess: Filters and crop of encoded images.
        settings: Form of the shards.
        labelled: Whether every sample must have a class.
        captions: Names of the captions that are kept; every sample needs one of them.
        classes: Names of the classes, or an empty sequence.
    """

    source: Source
    preprocess: Preprocess
    settings: PrepareSettings
    labelled: bool
    captions: Sequence[str]
    classes: Sequence[str]

    def __call__(self, indices: range) -> list[Encoded]:
        """Returns the samples at `indices`."""
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> Encoded:
        try:
            record = self.source.read(index)
            if self.labelled and record.label is None:
                raise BadSample("missing label")
            if self.labelled and self.classes and not 0 <= (record.label or 0) < len(self.classes):
                raise BadSample("label out of range", str(record.label))
            texts = {name: record.captions[name] for name in self.captions if record.captions.get(name, "").strip()}
            if self.captions and not texts:
                raise BadSample("missing caption", f"none of {', '.join(self.captions)}")
            return Encoded(index, self._members(record, texts), next(iter(texts.values()), ""), None)
        except BadSample as bad:
            where = self.source.where(index)
            return Encoded(index, None, "", Found(index, where, bad.reason, bad.detail, bad.filtered))
        except OSError as error:
            raise WorkFailed(f"{self.source.where(index)} cannot be read: {error}") from error

    def _members(self, record: Record, texts: dict[str, str]) -> dict[str, bytes]:
        s = self.settings
        if isinstance(record.image, bytes):
            pixels = self.preprocess.evaluation_crop(record.image, s.size)
        else:
            pixels = center_crop(
                np.ascontiguousarray(np.broadcast_to(record.image, (*record.image.shape[:2], 3))), s.size
            )
        form, settings = FORMATS[s.format]
        quality = {} if s.format == "png" else {"quality": s.quality}
        stream = io.BytesIO()
        Image.fromarray(to_channels(pixels, 3)).save(stream, format=form, **settings, **quality)
        more: dict[str, Any] = {"key": record.key, **texts}
        members: dict[str, bytes] = {s.format: stream.getvalue()}
        if self.labelled:
            more["label"] = record.label
            members["cls"] = str(record.label).encode()
        if texts:  # readers that expect the usual member find the first caption
            members["txt"] = texts.get("txt", next(iter(texts.values()))).encode()
        return members | {"json": json.dumps(more, sort_keys=True).encode()}


def encode_in_order(encoder: Encoder, tasks: Sequence[range], workers: int) -> Iterator[list[Encoded]]:
    """Yields the results of the tasks in their order.

    Args:
        encoder: Encodes the samples of a task.
        tasks: Indices of the samples.
        workers: Number of processes, each of which has at most a few tasks at a time; 0 encodes in this process.

    Raises:
        BrokenProcessPool: A process was killed.
    """
    if workers == 0:
        yield from map(encoder, tasks)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(encoder, os.getpid())) as pool:
        waiting: deque[Future[list[Encoded]]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_encode, task))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # It waits, because a process that ends meanwhile closes the queue that ends the workers.
            pool.shutdown(cancel_futures=True)


_encoder: Encoder | None = None
"""The encoder of a worker process."""


def _begin(encoder: Encoder, parent: int) -> None:
    global _encoder
    _encoder = encoder
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Terminates this process when its parent was killed; a pool's processes would wait for it endlessly."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _encode(indices: range) -> list[Encoded]:
    assert _encoder is not None
    return _encoder(indices)
