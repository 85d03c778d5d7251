"""Writes any data source as tar shards: cropped, encoded and indexed, the same bytes after any number of restarts."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from torch import Tensor

from pixelflow.data.decode import jpeg_decoder
from pixelflow.data.dirty import DirtyReport, Found
from pixelflow.data.encoding import Encoded, Encoder, PrepareSettings, encode_in_order
from pixelflow.data.fingerprint import content_hash
from pixelflow.data.images import DataSource
from pixelflow.data.records import Split
from pixelflow.errors import Interrupted, UserError, WorkFailed
from pixelflow.files import InUse, locked, write_aside, write_json, writing, written_aside
from pixelflow.signals import stop_on_signals, stop_signal

logger = logging.getLogger(__name__)

VERSION = 1
INDEX, IDENTITY, DONE = "index.json", "prepare.json", "done"
CHUNK = 32
"""Number of samples that a process encodes at a time, and number of captions that are encoded together."""
CONTINUE = "run the same command again: it continues after the last complete shard"

TextEncoder = Callable[[list[str]], Tensor]
"""Maps B captions to text tokens (B, L, D)."""


def prepare(
    data: DataSource,
    *,
    split: Split,
    output: Path,
    settings: PrepareSettings,
    workers: int,
    max_bad_share: float,
    text_encoder: TextEncoder | None = None,
    encoder_name: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes `shard-000000.tar`, ... and index.json to a folder. Complete shards that are there already are kept.

    Args:
        data: The data source.
        split: Split of the data.
        output: An empty folder, or one that an earlier call with the same arguments has begun.
        settings: Form of the shards.
        workers: Number of processes; 0 encodes in this process.
        max_bad_share: Largest accepted share of damaged samples, in [0, 1].
        text_encoder: Adds `embedding.npy`, (L, D) float16, of the first caption of each sample.
        encoder_name: Identity of the text encoder, for the index.
        progress: Called with the number of complete shards and the total.

    Returns:
        The content of index.json.

    Raises:
        UserError: `output` holds anything else, or shards of other settings or data.
        DirtyData: More samples are damaged than accepted.
        WorkFailed: The disk is full, or a process was killed.
        Interrupted: A signal asked to stop. Complete shards are kept.
    """
    source = data.source(split)
    total = sum(source.group_sizes)
    preprocess = data.spec.preprocess
    identity = {
        "version": VERSION, "data": data.spec.name, "split": split, "samples": total,
        "content": content_hash(source, total), **asdict(settings), "captions": list(data.captions),
        "text_encoder": encoder_name,
        "filters": {key: getattr(preprocess, key) for key in ("max_pixels", "min_side", "max_aspect")},
    }  # fmt: skip
    with stop_on_signals(), writing(output, CONTINUE), _claimed(output, identity):
        encoder = Encoder(source, preprocess, settings, data.labelled, tuple(data.captions), tuple(data.class_names()))
        per = settings.samples_per_shard
        shards = [range(start, min(start + per, total)) for start in range(0, total, per)]
        report = DirtyReport(folder=None, max_share=max_bad_share)
        lines = _make_shards(encoder, shards, output, workers, text_encoder, report, progress)
        index = {
            "version": VERSION,
            "samples": sum(line["samples"] for line in lines),
            "shards": [{key: line[key] for key in ("name", "samples", "bytes", "sha256")} for line in lines],
            "classes": list(encoder.classes),
            "image_size": data.spec.image_size,
            "decoder": jpeg_decoder(),
            "bad": dict(report.reasons),
            "prepare": identity,
        }
        write_json(output / INDEX, index)
        return index


@contextmanager
def _claimed(output: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Holds `output` for this process, and for data and settings of one identity."""
    path = output / IDENTITY
    if output.exists() and not path.exists() and any(output.iterdir()):
        raise UserError(f"output={output} holds something else; choose an empty folder")
    if path.exists():
        _require_same(output, _read_json(path), identity)
    (output / DONE).mkdir(parents=True, exist_ok=True)
    try:
        with locked(output / ".lock") as lock:
            os.register_at_fork(after_in_child=lock.close)  # a worker that outlives this process must not hold it
            if not path.exists():
                write_json(path, identity)
            for left in [*output.rglob(".*.tmp"), *output.glob(".*.part")]:  # written by a process that was killed
                left.unlink()
            yield
    except InUse:
        raise UserError(f"output={output} is being written by another process; wait until it has ended") from None


def _require_same(output: Path, there: dict[str, Any], identity: dict[str, Any]) -> None:
    differ = [key for key in {**there, **identity} if there.get(key) != identity.get(key)]
    if differ:
        named = ", ".join(f"{key} {there.get(key)!r}, now {identity.get(key)!r}" for key in differ[:3])
        raise UserError(f"output={output} was begun with {named}; choose another folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); choose another folder") from None


def _make_shards(
    encoder: Encoder,
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
        logger.info("%d of %d shards are complete", len(shards) - len(missing), len(shards))
    try:
        for number in sorted(lines):
            _report(report, output, lines[number], len(shards[number]))
        tasks = [range(i, min(i + CHUNK, shards[n].stop)) for n in missing for i in shards[n][::CHUNK]]
        made = encode_in_order(encoder, tasks, workers)
        progress(len(lines), len(shards))
        for number in missing:
            chunks = []
            for _ in range(0, len(shards[number]), CHUNK):
                if stop_signal() is not None:
                    raise Interrupted(f"{len(lines)} of {len(shards)} shards are complete")
                chunks.append(next(made))
            lines[number] = _write_shard(output, number, chunks, text_encoder)
            _report(report, output, lines[number], len(shards[number]))
            progress(len(lines), len(shards))
    except BrokenProcessPool:
        raise WorkFailed(
            f"a process that prepares images was killed (out of memory? use fewer workers); {CONTINUE}"
        ) from None
    return [lines[number] for number in range(len(shards))]


def _report(report: DirtyReport, output: Path, line: dict[str, Any], drawn: int) -> None:
    """Lists the bad samples of a complete shard. Shards come in their order, so a restart writes the same list."""
    found = [Found(**bad) for bad in line["bad"]]
    if report.path is None:
        report.path = output / "bad_samples.jsonl"
        report.path.unlink(missing_ok=True)
    report.add(drawn=drawn, found=found)


def _write_shard(
    output: Path, number: int, chunks: list[list[Encoded]], text_encoder: TextEncoder | None
) -> dict[str, Any]:
    """Writes a shard, then the line in `done/` that marks it as complete."""
    name = f"shard-{number:06}.tar"
    path, samples = output / name, 0
    with (
        written_aside(path) as aside,
        open(aside, "wb") as stream,
        webdataset.TarWriter(stream, encoder=False, mtime=0, user="", group="") as tar,
    ):
        for chunk in chunks:
            good = [made for made in chunk if made.members is not None]
            extra = _embeddings([made.caption for made in good], text_encoder)
            for made, embedding in zip(good, extra, strict=True):
                tar.write({"__key__": f"{made.index:09}", **(made.members or {}), **embedding})
            samples += len(good)
    with open(path, "rb") as shard:
        digest = hashlib.file_digest(shard, "sha256").hexdigest()
    line = {
        "name": name, "samples": samples, "bytes": path.stat().st_size, "sha256": digest,
        "bad": [asdict(made.bad) for chunk in chunks for made in chunk if made.bad is not None],
    }  # fmt: skip
    write_aside(output / DONE / f"{name}.json", json.dumps(line).encode())
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
    """Returns the line of a shard that is complete, or None."""
    name = f"shard-{number:06}.tar"
    try:
        line = json.loads((output / DONE / f"{name}.json").read_text(encoding="utf-8"))
        return line if (output / name).stat().st_size == line["bytes"] else None
    except (OSError, ValueError):
        return None
