"""The order of training samples: which sample stands at a position of the endless sequence.

The order is a function of (seed, position) alone and is defined before anything is split. Ranks and workers only take
slices of positions, so the sequence does not depend on their number, and every rank takes the same number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pixelflow.flow.rng import KeyedRandom

KEPT = 2
"""Number of permutations kept in memory: a batch may lie on the border of two windows or epochs."""


class Order(Protocol):
    """Maps positions of the endless training sequence to samples."""

    @property
    def size(self) -> int | None:
        """Number of samples in an epoch, or None if no sample is repeated."""
        ...

    def index(self, position: int) -> int:
        """Returns the index of the sample at a position."""
        ...


class EpochOrder:
    """An order that visits each sample once per epoch, in a new permutation every epoch.

    Args:
        sizes: Number of samples in each shard.
        seed: Seed of the permutations.
        window: Number of shards that are mixed at a time; 0 for all. A window bounds the number of shards in use: with
            64 shards of 1,000 samples, samples are drawn from 64,000.
    """

    def __init__(self, *, sizes: Sequence[int], seed: int, window: int = 0) -> None:
        assert sum(sizes) > 0
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.size = int(self.sizes.sum())
        self.window = len(sizes) if not 0 < window < len(sizes) else window
        self._random = KeyedRandom(seed)
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._windows: dict[tuple[int, int], np.ndarray] = {}

    def index(self, position: int) -> int:
        """Returns the index of the sample at a position, counted through the shards in their own order."""
        epoch, offset = divmod(position, self.size)
        if self.window == len(self.sizes):
            return int(self._samples(epoch, 0)[offset])
        ends = self._epoch(epoch)[1]
        window = int(np.searchsorted(ends, offset, side="right"))
        return int(self._samples(epoch, window)[offset - (ends[window - 1] if window else 0)])

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the order of the shards and the offset in the epoch at which each window ends."""
        if epoch not in self._epochs:
            order = self._random.permutation("shard order", len(self.sizes), step=epoch)
            ends = np.cumsum(self.sizes[order])
            last = np.append(np.arange(self.window, len(order), self.window), len(order)) - 1
            _keep(self._epochs, epoch, (order, ends[last]))
        return self._epochs[epoch]

    def _samples(self, epoch: int, window: int) -> np.ndarray:
        """Returns the samples of one window, in their order."""
        if (epoch, window) not in self._windows:
            if self.window == len(self.sizes):
                order = self._random.permutation("epoch order", self.size, step=epoch)
            else:
                shards = self._epoch(epoch)[0][window * self.window : (window + 1) * self.window]
                samples = np.concatenate([np.arange(self.sizes[s]) + self.first[s] for s in shards])
                order = self._random.generator("window order", window, epoch).permutation(samples)
            _keep(self._windows, (epoch, window), order)
        return self._windows[epoch, window]


class EndlessOrder:
    """The order of sources that generate a new sample for every position: the index is the position."""

    size = None

    def index(self, position: int) -> int:
        """Returns the position itself."""
        return position


def rank_slice(position: int, *, batch_size: int, rank: int, world_size: int) -> range:
    """Returns the positions of one rank in the global batch that begins at `position`."""
    share = batch_size // world_size
    return range(position + rank * share, position + (rank + 1) * share)


def require_divisible(batch_size: int, world_size: int) -> None:
    """Raises ValueError unless every rank gets the same number of images."""
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size} must be divisible by the number of ranks, {world_size}")


def _keep(cache: dict, key: object, value: object) -> None:
    while len(cache) >= KEPT:
        del cache[next(iter(cache))]
    cache[key] = value
