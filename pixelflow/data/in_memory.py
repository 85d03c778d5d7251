"""A data set that fits in memory, as an endless sequence of batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pixelflow.data.order import rank_slice
from pixelflow.data.records import Record
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, Condition


class MemorySource:
    """The images of a `MemoryLoader` as records. images: (N, C, H, W) uint8. labels: (N,)."""

    def __init__(self, images: Tensor, labels: Tensor, name: str) -> None:
        self.images, self.labels, self.name = images.permute(0, 2, 3, 1).contiguous().numpy(), labels, name
        self.group_sizes = [len(labels)]

    def read(self, index: int) -> Record:
        return Record(key=f"{index:06}", image=self.images[index], label=int(self.labels[index]))

    def where(self, index: int) -> str:
        return f"{self.name} {index}"


class MemoryLoader:
    """Every epoch in a new order. What image stands where is a function of seed and position alone.

    images: (N, C, H, W) uint8. labels: (N,) int64. Batches run over the ends of epochs, so all have batch_size images,
    of which each rank yields its slice.
    """

    def __init__(
        self, *, images: Tensor, labels: Tensor, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        assert len(images) == len(labels) > 0
        if batch_size % world_size:
            raise ValueError(f"trainer.batch_size={batch_size} must be divisible by the number of ranks, {world_size}")
        self.rank, self.world_size = rank, world_size
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.position = 0
        self._random = KeyedRandom(seed)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def _index(self, position: int) -> Tensor:
        """Which image stands at `position` of the sequence."""
        epoch, offset = divmod(position, len(self.images))
        if self._order[0] != epoch:
            order = torch.from_numpy(self._random.permutation("epoch order", len(self.images), step=epoch))
            self._order = (epoch, order)
        return self._order[1][offset]

    def __iter__(self) -> Iterator[Batch]:
        while True:
            ids = torch.as_tensor(
                rank_slice(self.position, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size)
            )
            index = torch.stack([self._index(int(i)) for i in ids])
            x = self.images[index].float() / 127.5 - 1
            self.position += self.batch_size
            yield Batch(x, Condition(class_label=self.labels[index]), ids)

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch's first image."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])
