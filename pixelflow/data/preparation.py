"""Any source to tar shards: cropped, encoded, indexed; restartable, and the same bytes however often it was stopped."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor

from pixelflow.data.dirty import DirtyReport, Found
from pixelflow.data.records import BadSample, Record, Source
from pixelflow.data.transforms import Preprocess, center_crop, to_channels

logger = logging.getLogger(__name__)

VERSION = 1
INDEX, IDENTITY, DONE = "index.json", "prepare.json", "done"
CHUNK = 32
"""Samples that a process takes at a time, and captions that are encoded together."""
FINGERPRINTED = 64
SAVE: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "png": ("PNG", {"compress_level": 6}),
    "webp": ("WEBP", {"method": 4}),
}

TextEncoder = Callable[[list[str]], Tensor]
"""Captions to tokens (B, L, D)."""


class Preparable(Protocol):
    """What a data option offers to be prepared."""

    name: str
    preprocess: Preprocess
    labelled: bool
    captions: Mapping[str, float]

    def source(self, split: Any) -> Source: ...
    def class_names(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class PrepareSettings:
    """size: of the ADM-cropped images. format, quality: of their files (png has no quality).

    Raises ValueError for numbers out of range.
    """

    size: int
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = 95
    samples_per_shard: int = 1000

    def __post_init__(self) -> None:
        if self.format not in SAVE:
            raise ValueError(f"job.format={self.format} must be one of {', '.join(SAVE)}")
        for name, most in (("size", 16384), ("quality", 100), ("samples_per_shard", 1_000_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"job.{name}={getattr(self, name)} must be in 1..{most}")


@dataclass(frozen=True)
class _Made:
    """One sample's members by extension, its caption; or why there is none."""

    index: int
    members: dict[str, bytes] | None
    caption: str
    bad: Found | None


@dataclass(frozen=True)
class _Maker:
    source: Source
    preprocess: Preprocess
    settings: PrepareSettings
    labelled: bool
    captions: tuple[str, ...]
    classes: tuple[str, ...]

    def __call__(self, indices: range) -> list[_Made]:
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> _Made:
        try:
            record = self.source.read(index)
            if self.labelled and record.label is None:
                raise BadSample("missing label")
            if self.labelled and self.classes and not 0 <= (record.label or 0) < len(self.classes):
                raise BadSample("label out of range", str(record.label))
            texts = {name: record.captions[name] for name in self.captions if record.captions.get(name, "").strip()}
            if self.captions and not texts:
                raise BadSample("missing caption", f"none of {', '.join(self.captions)}")
            return _Made(index, self._members(record, texts), next(iter(texts.values()), ""), None)
        except BadSample as bad:
            where = self.source.where(index)
            return _Made(index, None, "", Found(index, where, bad.reason, bad.detail, bad.filtered))

    def _members(self, record: Record, texts: dict[str, str]) -> dict[str, bytes]:
        s = self.settings
        if isinstance(record.image, bytes):
            pixels = self.preprocess.evaluation_crop(record.image, s.size)
        else:
            pixels = center_crop(
                np.ascontiguousarray(np.broadcast_to(record.image, (*record.image.shape[:2], 3))), s.size
            )
        form, settings = SAVE[s.format]
        quality = {} if s.format == "png" else {"quality": s.quality}
        stream = io.BytesIO()
        Image.fromarray(to_channels(pixels, 3)).save(stream, format=form, **settings, **quality)
        more: dict[str, Any] = {"key": record.key, **texts}
        members: dict[str, bytes] = {s.format: stream.getvalue()}
        if self.labelled:
            more["label"] = record.label
            members["cls"] = str(record.label).encode()
        if texts:  # whoever looks for the usual member finds the first caption
            members["txt"] = texts.get("txt", next(iter(texts.values()))).encode()
        return members | {"json": json.dumps(more, sort_keys=True).encode()}


def prepare(
    data: Preparable,
    *,
    split: str,
    output: Path,
    settings: PrepareSettings,
    workers: int,
    max_bad_share: float,
    text_encoder: TextEncoder | None = None,
    encoder_name: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write `shard-000000.tar`, ... and index.json to `output`; whole shards that are there stay. Returns the index.

    text_encoder: adds `embedding.npy`, (L, D) float16, of each sample's first caption. encoder_name: what it is,
    for the record.
    Raises ValueError if `output` holds anything else, or shards of other settings or data; DirtyData above
    max_bad_share.
    """
    source = data.source(split)
    total = sum(source.group_sizes)
    identity = {
        "version": VERSION, "data": data.name, "split": split, "samples": total, "content": fingerprint(source, total),
        **asdict(settings), "captions": list(data.captions), "text_encoder": encoder_name,
        "filters": {key: getattr(data.preprocess, key) for key in ("max_pixels", "min_side", "max_aspect")},
    }  # fmt: skip
    with _claimed(output, identity):
        maker = _Maker(
            source, data.preprocess, settings, data.labelled, tuple(data.captions), tuple(data.class_names())
        )
        per = settings.samples_per_shard
        shards = [range(start, min(start + per, total)) for start in range(0, total, per)]
        report = DirtyReport(folder=None, max_share=max_bad_share)
        lines = _make_shards(maker, shards, output, workers, text_encoder, report, progress)
        index = {
            "version": VERSION,
            "samples": sum(line["samples"] for line in lines),
            "shards": [{key: line[key] for key in ("name", "samples", "bytes", "sha256")} for line in lines],
            "classes": list(maker.classes),
            "bad": dict(report.reasons),
            "prepare": identity,
        }
        _write(output / INDEX, json.dumps(index, indent=1).encode())
        return index


def fingerprint(source: Source, total: int) -> str:
    """A hash of some records, so that other data of the same name and number are told apart."""
    digest = hashlib.sha256()
    for index in np.linspace(0, total - 1, min(FINGERPRINTED, total)).astype(int).tolist():
        try:
            record = source.read(index)
            image = record.image if isinstance(record.image, bytes) else record.image.tobytes()
            digest.update(hashlib.sha256(image).digest() + repr((record.label, sorted(record.captions))).encode())
        except BadSample as bad:
            digest.update(bad.reason.encode())
    return digest.hexdigest()[:16]


class _claimed:
    """Hold `output` for one process, and for one identity."""

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self.output, self.identity = output, identity

    def __enter__(self) -> None:
        path = self.output / IDENTITY
        if self.output.exists() and not path.exists() and any(self.output.iterdir()):
            raise ValueError(f"job.output={self.output} holds something else; choose an empty folder")
        if path.exists():
            there = json.loads(path.read_text(encoding="utf-8"))
            differ = [key for key in {**there, **self.identity} if there.get(key) != self.identity.get(key)]
            if differ:
                told = ", ".join(f"{key} {there.get(key)!r}, now {self.identity.get(key)!r}" for key in differ[:3])
                raise ValueError(f"job.output={self.output} was begun with {told}; choose another folder")
        (self.output / DONE).mkdir(parents=True, exist_ok=True)
        self._lock = open(self.output / ".lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"job.output={self.output} is being written by another process") from None
        os.register_at_fork(after_in_child=self._lock.close)  # else a process left over would hold it
        if not path.exists():
            _write(path, json.dumps(self.identity, indent=1).encode())
        for left in self.output.glob(".*.part"):  # of a process that was killed
            left.unlink()

    def __exit__(self, *error: object) -> None:
        self._lock.close()


def _make_shards(
    maker: _Maker,
    shards: list[range],
    output: Path,
    workers: int,
    text_encoder: TextEncoder | None,
    report: DirtyReport,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    lines: dict[int, dict[str, Any]] = {}
    for number in range(len(shards)):
        if (line := _finished(output, number)) is not None:
            lines[number] = line
    missing = [number for number in range(len(shards)) if number not in lines]
    if len(missing) < len(shards):
        logger.info("%d of %d shards are there", len(shards) - len(missing), len(shards))
    try:
        for number in sorted(lines):
            _report(report, output, lines[number], len(shards[number]))
        tasks = [range(i, min(i + CHUNK, shards[n].stop)) for n in missing for i in shards[n][::CHUNK]]
        made = _in_order(maker, tasks, workers)
        progress(len(lines), len(shards))
        for number in missing:
            chunks = [next(made) for _ in range(0, len(shards[number]), CHUNK)]
            lines[number] = _write_shard(output, number, chunks, text_encoder)
            _report(report, output, lines[number], len(shards[number]))
            progress(len(lines), len(shards))
    except BrokenProcessPool:
        raise OSError(
            "a process that prepares images was killed (out of memory? lower job.workers); "
            "the same command goes on after the last whole shard"
        ) from None
    return [lines[number] for number in range(len(shards))]


def _report(report: DirtyReport, output: Path, line: dict[str, Any], drawn: int) -> None:
    """The list of bad samples is that of the whole shards, in their order, so a restart writes the same."""
    found = [Found(**bad) for bad in line["bad"]]
    if report.path is None:
        report.path = output / "bad_samples.jsonl"
        report.path.unlink(missing_ok=True)
    report.add(drawn=drawn, found=found)


def _in_order(maker: _Maker, tasks: list[range], workers: int) -> Iterator[list[_Made]]:
    """The tasks' results in their order; a bounded number is under way."""
    if workers == 0:
        yield from map(maker, tasks)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(maker, os.getpid())) as pool:
        waiting: deque[Future[list[_Made]]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_make, task))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_maker: _Maker | None = None


def _begin(maker: _Maker, parent: int) -> None:
    global _maker
    _maker = maker
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A pool's processes wait for ever for a parent that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _make(indices: range) -> list[_Made]:
    assert _maker is not None
    return _maker(indices)


def _write_shard(
    output: Path, number: int, chunks: list[list[_Made]], text_encoder: TextEncoder | None
) -> dict[str, Any]:
    """Written aside and renamed; the line in `done/`, written last, says that it is whole."""
    name = f"shard-{number:06}.tar"
    aside, samples = output / f".{name}.part", 0
    with open(aside, "wb") as stream:
        with webdataset.TarWriter(stream, encoder=False, mtime=0, user="", group="") as tar:
            for chunk in chunks:
                good = [made for made in chunk if made.members is not None]
                extra = _embeddings([made.caption for made in good], text_encoder)
                for made, embedding in zip(good, extra, strict=True):
                    tar.write({"__key__": f"{made.index:09}", **(made.members or {}), **embedding})
                samples += len(good)
        stream.flush()
        os.fsync(stream.fileno())
    with open(aside, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    line = {
        "name": name, "samples": samples, "bytes": aside.stat().st_size, "sha256": digest,
        "bad": [asdict(made.bad) for chunk in chunks for made in chunk if made.bad is not None],
    }  # fmt: skip
    aside.replace(output / name)
    _write(output / DONE / f"{name}.json", json.dumps(line).encode())
    return line


def _embeddings(captions: list[str], text_encoder: TextEncoder | None) -> list[dict[str, bytes]]:
    if text_encoder is None or not captions:
        return [{} for _ in captions]
    result = []
    for tokens in text_encoder(captions).half().cpu().numpy():
        stream = io.BytesIO()
        np.save(stream, tokens)
        result.append({"embedding.npy": stream.getvalue()})
    return result


def _finished(output: Path, number: int) -> dict[str, Any] | None:
    """The line of a shard that is whole."""
    name = f"shard-{number:06}.tar"
    try:
        line = json.loads((output / DONE / f"{name}.json").read_text(encoding="utf-8"))
        return line if (output / name).stat().st_size == line["bytes"] else None
    except (OSError, ValueError):
        return None


def _write(path: Path, content: bytes) -> None:
    """A reader sees the old content or the new one."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(content)
    aside.replace(path)
