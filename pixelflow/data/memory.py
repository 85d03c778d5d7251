"""A data set that fits in memory, as an endless sequence of batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, Condition


class MemoryLoader:
    """Every epoch in a new order. What image stands where is a function of seed and position alone.

    images: (N, C, H, W) uint8. labels: (N,) int64. Batches run over the ends of epochs, so all have batch_size images.
    """

    def __init__(self, *, images: Tensor, labels: Tensor, batch_size: int, seed: int) -> None:
        assert len(images) == len(labels) > 0
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
            ids = torch.arange(self.position, self.position + self.batch_size)
            index = torch.stack([self._index(int(i)) for i in ids])
            x = self.images[index].float() / 127.5 - 1
            self.position += self.batch_size
            yield Batch(x, Condition(class_label=self.labels[index]), ids)

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch's first image."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])
