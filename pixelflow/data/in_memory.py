"""A data set that fits in memory, as an endless sequence of batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pixelflow.data.order import rank_slice, require_divisible
from pixelflow.data.records import Record
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, Condition


class MemorySource:
    """Images in memory as records.

    Args:
        images: (N, C, R, R) uint8.
        labels: (N,) int64.
        name: Name of one image in messages.
    """

    def __init__(self, images: Tensor, labels: Tensor, name: str) -> None:
        self.images, self.labels, self.name = images.permute(0, 2, 3, 1).contiguous().numpy(), labels, name
        self.group_sizes = [len(labels)]

    def read(self, index: int) -> Record:
        """Returns the finished pixels and the label of an image."""
        return Record(key=f"{index:06}", image=self.images[index], label=int(self.labels[index]))

    def where(self, index: int) -> str:
        """Returns the name and the index of an image."""
        return f"{self.name} {index}"


class MemoryLoader:
    """An endless sequence of batches, in a new order every epoch; a `Loader`.

    Which image stands at a position is a function of seed and position alone. Batches continue across the ends of
    epochs, so all of them have `batch_size` images, of which each rank yields its slice.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        batch_size: Number of images of all ranks together.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        ValueError: `world_size` does not divide `batch_size`.
    """

    def __init__(
        self, *, images: Tensor, labels: Tensor, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        assert len(images) == len(labels) > 0
        require_divisible(batch_size, world_size)
        self.rank, self.world_size = rank, world_size
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.position = 0
        self._random = KeyedRandom(seed)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def _index(self, position: int) -> Tensor:
        """Returns the index of the image at a position of the sequence."""
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
        """Returns the position of the first image of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at the saved position."""
        self.position = int(state["position"])
