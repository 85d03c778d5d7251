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
from pixelflow.data.order import Order, rank_slice, require_divisible
from pixelflow.data.records import BadSample, Record, Source
from pixelflow.data.spec import ImageSpec
from pixelflow.data.transforms import to_channels
from pixelflow.data.workers import WorkerPool
from pixelflow.errors import UserError, WorkFailed
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, Condition

SUBSTITUTES = 50
"""Number of samples that are tried for one position before the data are reported as unusable."""


@dataclass
class _Parts:
    """Labels, captions and embeddings of a batch, and the bad samples that were found while it was filled."""

    labels: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)
    drawn: int = 0
    bad: list[Found] = field(default_factory=list)


@dataclass(frozen=True)
class Maker:
    """Makes the sample of a position: read, crop, label, caption. It does not depend on ranks and workers.

    Args:
        source: Records of the training split.
        order: Order of the samples.
        spec: Form of the batches.
        seed: Seed of crops, flips, captions and substitutes.
        captions: Weights of the captions by name; empty for sources without captions.
        labelled: Whether samples have classes; otherwise the label is 0.
        embeddings: Whether every sample must have precomputed text tokens.
    """

    source: Source
    order: Order
    spec: ImageSpec
    seed: int
    captions: Mapping[str, float] = field(default_factory=dict)
    labelled: bool = True
    embeddings: bool = False

    def fill(self, positions: range, slot: Tensor, reading: Callable[[int], None]) -> _Parts:
        """Fills a batch.

        Args:
            positions: The B positions of the sequence.
            slot: (B, C, R, R) uint8, the memory to fill.
            reading: Called with the index of each sample before it is read.

        Returns:
            Labels, captions and embeddings of the batch, and the bad samples.

        Raises:
            UserError: Too many samples in a row cannot be used.
            WorkFailed: The storage failed.
        """
        parts, random = _Parts(), KeyedRandom(self.seed)
        for row, position in enumerate(positions):
            self._make(position, slot[row], parts, random, reading)
        return parts

    def _make(
        self, position: int, row: Tensor, parts: _Parts, random: KeyedRandom, reading: Callable[[int], None]
    ) -> None:
        # Always four numbers (top, left, flip, caption), so that an option changes only the draw that it controls.
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
                # Another sample takes its place, so that no position is empty and every rank takes the same steps.
                size = self.order.size
                drawn = random.generator("substitute", position, attempt).integers(size if size else 2**62)
                index = int(drawn)
                continue
            except OSError as error:
                raise WorkFailed(f"{self.source.where(index)} cannot be read: {error}") from error
            parts.labels.append(label)
            flipped = self.spec.preprocess.flip and isinstance(record.image, bytes) and uniform[2] < 0.5
            row.copy_(pixels.flip(-1) if flipped else pixels)
            if self.captions:
                parts.captions.append(caption)
            if self.embeddings and record.embedding is not None:
                parts.embeddings.append(record.embedding)
            return
        raise UserError(f"{SUBSTITUTES} samples in a row cannot be used; the last was {found.file}: {found.reason}")

    def _pixels(self, record: Record, uniform: np.ndarray) -> np.ndarray:
        spec, pixels = self.spec, record.image
        if isinstance(pixels, bytes):
            pixels = spec.preprocess.training_crop(pixels, spec.image_size, uniform[:2])
        return to_channels(pixels, spec.channels)

    def _label(self, record: Record) -> int:
        if not self.labelled:
            return 0
        if record.label is None:
            raise BadSample("missing label")
        if not 0 <= record.label < self.spec.num_classes:
            raise BadSample("label out of range", f"{record.label}, but num_classes={self.spec.num_classes}")
        return record.label

    def _caption(self, record: Record, uniform: float) -> str:
        return choose_caption(record, self.captions, uniform) if self.captions else ""


def choose_caption(record: Record, weights: Mapping[str, float], uniform: float) -> str:
    """Draws one of the captions that a record has.

    Args:
        record: The sample.
        weights: Weights of the captions by name.
        uniform: A uniform random number in [0, 1).

    Returns:
        The caption, without surrounding white space.

    Raises:
        BadSample: The record has none of the captions.
    """
    there = [name for name in weights if record.captions.get(name, "").strip()]
    if not there:
        raise BadSample("missing caption", f"none of {', '.join(weights)}")
    edges = np.cumsum([weights[name] for name in there])
    return record.captions[there[int(np.searchsorted(edges, uniform * edges[-1], side="right"))]].strip()


@dataclass(frozen=True)
class _RankFill:
    """Fills the slice of one rank in the global batch that begins at a position."""

    maker: Maker
    batch_size: int
    rank: int
    world_size: int

    def positions(self, position: int) -> range:
        return rank_slice(position, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size)

    def __call__(self, position: int, slot: Tensor, reading: Callable[[int], None]) -> _Parts:
        return self.maker.fill(self.positions(position), slot, reading)


class StreamLoader:
    """An endless sequence of batches; a `Loader`. The sample at a position does not depend on rank or workers.

    Args:
        maker: Makes the samples; its spec says how many workers read them.
        batch_size: Number of images of all ranks together; every rank yields its slice.
        rank: Rank of this process.
        world_size: Number of processes.
        device: Device of the batches; pixels are copied to it as uint8 and converted there.
        report: Folder for the list of bad samples.

    Raises:
        ValueError: `world_size` does not divide `batch_size`.
    """

    def __init__(
        self,
        *,
        maker: Maker,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        report: Path | None = None,
    ) -> None:
        require_divisible(batch_size, world_size)
        assert 0 <= rank < world_size
        self.maker, self.reading, self.batch_size = maker, maker.spec.reading, batch_size
        self.world_size, self.device = world_size, torch.device(device)
        self._fill = _RankFill(maker, batch_size, rank, world_size)
        self.position = 0
        self.bad = DirtyReport(folder=report, max_share=self.reading.max_bad_share, rank=rank)
        self._pool: WorkerPool | None = None
        self._slot: Tensor | None = None
        self._asked = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, C, R, R) of the batches of this rank."""
        spec = self.maker.spec
        return (self.batch_size // self.world_size, spec.channels, spec.image_size, spec.image_size)

    @property
    def buffer_bytes(self) -> int:
        """Memory of the batches that are kept ready, in bytes."""
        return int(np.prod(self.shape)) * max(self.reading.workers * self.reading.depth, 1)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self.reading.workers:
                self._ask()
            yield self._next()

    def remaining(self) -> Iterator[Batch]:
        """Yields only the batches that the workers have been asked for already, then stops the workers."""
        while self._pool is not None and self.position < self._asked:
            yield self._next()
        self.close()

    def _next(self) -> Batch:
        try:
            slot, parts = self._read()
            self.bad.add(drawn=parts.drawn, found=parts.bad)
        except BaseException:
            self.close()  # the batches that the workers keep ready no longer fit the position
            raise
        batch = self._batch(slot, parts, torch.as_tensor(self._fill.positions(self.position)))
        self.position += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the next batch, in images of all ranks, and the number of samples of the data."""
        return {"position": self.position, "samples": self.maker.order.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at the saved position.

        Raises:
            UserError: The data have another number of samples than when the position was saved.
        """
        size = self.maker.order.size
        if state.get("samples", size) != size:
            raise UserError(
                f"the data have {size} samples, but they had {state['samples']} when this run was saved; "
                "restore them, or start the run anew (on the command line: rerun=true)"
            )
        self.position = int(state["position"])
        self.close()

    def close(self) -> None:
        """Stops the workers; reading the next batch starts new ones."""
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
        """Fills the queue of the workers. The slot of the previous batch is free at this point."""
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
