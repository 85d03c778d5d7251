"""An endless, seeded sequence of batches from a source that is too large for memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelflow.data.dirty import DirtyReport, Found
from pixelflow.data.order import Order, rank_slice
from pixelflow.data.records import BadSample, Record, Source
from pixelflow.data.transforms import Preprocess, to_channels
from pixelflow.data.workers import WorkerPool
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, Condition

SUBSTITUTES = 50
"""Samples that are tried for one position before the data are given up."""


@dataclass(frozen=True)
class Reading:
    """How samples are read; none of it changes what is read.

    workers: processes; 0 reads in the process that trains. depth: batches that each worker keeps ready. Memory is
    workers x depth batches of uint8 pixels, and one decoded image in each worker.
    max_bad_share: of damaged samples, more is refused. stall_seconds: a worker that gives no sign of life for so long
    is replaced. retries: how often a batch, or a shard, is tried again before the error names it.
    Raises ValueError for numbers out of range.
    """

    workers: int = 4
    depth: int = 2
    max_bad_share: float = 0.01
    stall_seconds: float = 60.0
    retries: int = 4

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("depth", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"reading.{name}={getattr(self, name)} must be at least {least}")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"reading.max_bad_share={self.max_bad_share} must be in [0, 1]")
        if self.stall_seconds <= 0:
            raise ValueError(f"reading.stall_seconds={self.stall_seconds} must be above 0")


@dataclass
class _Parts:
    """What belongs to the pixels of a batch."""

    labels: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)
    drawn: int = 0
    bad: list[Found] = field(default_factory=list)


@dataclass(frozen=True)
class Maker:
    """Makes the sample of a position: read, crop, label, caption. Knows neither ranks nor workers.

    captions: weights of the names to choose from; empty for sources without captions. labelled: False for sources
    without classes, whose label is 0. embeddings: whether every sample must bring its precomputed text.
    """

    source: Source
    order: Order
    preprocess: Preprocess
    image_size: int
    channels: int
    num_classes: int
    seed: int
    captions: Mapping[str, float] = field(default_factory=dict)
    labelled: bool = True
    embeddings: bool = False

    def fill(self, positions: range, slot: Tensor, reading: Callable[[int], None]) -> _Parts:
        """slot: (B, C, R, R) uint8. Raises ValueError if no sample can be used."""
        parts, random = _Parts(), KeyedRandom(self.seed)
        for row, position in enumerate(positions):
            self._make(position, slot[row], parts, random, reading)
        return parts

    def _make(
        self, position: int, row: Tensor, parts: _Parts, random: KeyedRandom, reading: Callable[[int], None]
    ) -> None:
        # Always four numbers, so that an option changes nothing but what it is for: top, left, flip, caption.
        uniform = random.generator("augmentation", position).random(4)
        index = self.order.index(position)
        for attempt in range(SUBSTITUTES):
            parts.drawn += 1
            reading(index)
            try:
                record = self.source.read(index)
                label, caption = self._label(record), self._caption(record, uniform[3])
                if self.embeddings and record.embedding is None:
                    raise BadSample("missing embedding")
                pixels = torch.from_numpy(self._pixels(record, uniform)).permute(2, 0, 1)
            except BadSample as bad:
                found = Found(index, self.source.where(index), bad.reason, bad.detail, bad.filtered)
                parts.bad.append(found)
                # Another sample takes its place, so that no position is empty and every rank makes the same steps.
                size = self.order.size
                drawn = random.generator("substitute", position, attempt).integers(size if size else 2**62)
                index = int(drawn)
                continue
            parts.labels.append(label)
            flipped = self.preprocess.flip and isinstance(record.image, bytes) and uniform[2] < 0.5
            row.copy_(pixels.flip(-1) if flipped else pixels)
            if self.captions:
                parts.captions.append(caption)
            if self.embeddings and record.embedding is not None:
                parts.embeddings.append(record.embedding)
            return
        raise ValueError(f"{SUBSTITUTES} samples in a row cannot be used; the last was {found.file}: {found.reason}")

    def _pixels(self, record: Record, uniform: np.ndarray) -> np.ndarray:
        if isinstance(record.image, bytes):
            return to_channels(self.preprocess.training_crop(record.image, self.image_size, uniform[:2]), self.channels)
        return to_channels(record.image, self.channels)

    def _label(self, record: Record) -> int:
        if not self.labelled:
            return 0
        if record.label is None:
            raise BadSample("missing label")
        if not 0 <= record.label < self.num_classes:
            raise BadSample("label out of range", f"{record.label}, but data.num_classes={self.num_classes}")
        return record.label

    def _caption(self, record: Record, uniform: float) -> str:
        return choose_caption(record, self.captions, uniform) if self.captions else ""


def choose_caption(record: Record, weights: Mapping[str, float], uniform: float) -> str:
    """One of the record's captions, by weight among those it has. uniform: in [0, 1). Raises BadSample."""
    there = [name for name in weights if record.captions.get(name, "").strip()]
    if not there:
        raise BadSample("missing caption", f"none of {', '.join(weights)}")
    edges = np.cumsum([weights[name] for name in there])
    return record.captions[there[int(np.searchsorted(edges, uniform * edges[-1], side="right"))]].strip()


@dataclass(frozen=True)
class _RankFill:
    """Fills one rank's slice of the global batch at a position; all that a worker needs to know."""

    maker: Maker
    batch_size: int
    rank: int
    world_size: int

    def positions(self, position: int) -> range:
        return rank_slice(position, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size)

    def __call__(self, position: int, slot: Tensor, reading: Callable[[int], None]) -> _Parts:
        return self.maker.fill(self.positions(position), slot, reading)


class StreamLoader:
    """`Loader` over a `Maker`; the sample at a position depends neither on rank nor on workers.

    batch_size: images of all ranks together; every rank yields its slice. device: where batches are made float;
    pixels travel to it as uint8. report: folder for the list of bad samples.
    Raises ValueError unless world_size divides batch_size.
    """

    def __init__(
        self,
        *,
        maker: Maker,
        reading: Reading,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        report: Path | None = None,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"trainer.batch_size={batch_size} must be divisible by the number of ranks, {world_size}")
        assert 0 <= rank < world_size
        self.maker, self.reading, self.batch_size = maker, reading, batch_size
        self.world_size, self.device = world_size, torch.device(device)
        self._fill = _RankFill(maker, batch_size, rank, world_size)
        self.position = 0
        self.bad = DirtyReport(folder=report, max_share=reading.max_bad_share, rank=rank)
        self._pool: WorkerPool | None = None
        self._slot: Tensor | None = None
        self._asked = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a rank's batch of uint8 pixels."""
        m = self.maker
        return (self.batch_size // self.world_size, m.channels, m.image_size, m.image_size)

    @property
    def buffer_bytes(self) -> int:
        """Memory of the batches that are kept ready."""
        return int(np.prod(self.shape)) * max(self.reading.workers * self.reading.depth, 1)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self.reading.workers:
                self._ask()
            yield self._next()

    def remaining(self) -> Iterator[Batch]:
        """The batches that the workers were asked for ahead, and no more; then the workers end."""
        while self._pool is not None and self.position < self._asked:
            yield self._next()
        self.close()

    def _next(self) -> Batch:
        try:
            slot, parts = self._read()
            self.bad.add(drawn=parts.drawn, found=parts.bad)
        except BaseException:
            self.close()  # what the workers hold ready no longer fits the position
            raise
        batch = self._batch(slot, parts, torch.as_tensor(self._fill.positions(self.position)))
        self.position += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, in images of all ranks, and how many samples it refers to."""
        return {"position": self.position, "samples": self.maker.order.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the position is one in another set of samples."""
        size = self.maker.order.size
        if state.get("samples", size) != size:
            raise ValueError(
                f"the data have {size} samples, but {state['samples']} when this run was saved: "
                "restore them, or start anew with rerun=true"
            )
        self.position = int(state["position"])
        self.close()

    def close(self) -> None:
        """Stop the workers; the next batch starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _read(self) -> tuple[Tensor, _Parts]:
        if self._pool is not None:
            return self._pool.next()
        if self._slot is None:
            self._slot = torch.empty(self.shape, dtype=torch.uint8)
        return self._slot, self._fill(self.position, self._slot, lambda index: None)

    def _ask(self) -> None:
        """Fill the queue of the workers. The slot of the batch before is free by now."""
        pool = self._pool or self._start()
        while self._asked < self.position + pool.capacity * self.batch_size:
            pool.submit(self._asked)
            self._asked += self.batch_size

    def _start(self) -> WorkerPool:
        r = self.reading
        pool = WorkerPool(
            fill=self._fill, describe=self.maker.source.where, shape=self.shape, workers=r.workers, depth=r.depth,
            stall_seconds=r.stall_seconds, retries=r.retries,
        )  # fmt: skip
        weakref.finalize(self, pool.close)
        self._pool, self._asked = pool, self.position
        return pool

    def _batch(self, slot: Tensor, parts: _Parts, ids: Tensor) -> Batch:
        cuda = self.device.type == "cuda"
        pixels = (slot.pin_memory() if cuda else slot).to(self.device, non_blocking=cuda)
        x = pixels.float().div_(127.5).sub_(1)
        condition = Condition(
            class_label=torch.tensor(parts.labels),
            caption=tuple(parts.captions) if self.maker.captions else None,
            text=torch.from_numpy(np.stack(parts.embeddings)) if self.maker.embeddings else None,
        )
        return Batch(x, condition.to(self.device), ids)
