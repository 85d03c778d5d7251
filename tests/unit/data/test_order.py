from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelflow.data.in_memory import MemoryLoader
from pixelflow.data.order import EndlessOrder, EpochOrder, rank_slice

SIZES = [7, 1, 0, 12, 5, 5, 9]
N = sum(SIZES)


def epochs(order: EpochOrder, count: int = 3) -> np.ndarray:
    return np.array([order.index(i) for i in range(count * N)]).reshape(count, N)


@pytest.mark.parametrize("window", [0, 1, 2, 3, 7, 100])
def test_every_epoch_is_another_permutation(window: int) -> None:
    rows = epochs(EpochOrder(sizes=SIZES, seed=3, window=window))
    for row in rows:
        assert sorted(row) == list(range(N))
    assert len({tuple(row) for row in rows}) == 3


@pytest.mark.parametrize("window", [0, 2])
def test_a_position_alone_determines_the_sample(window: int) -> None:
    whole = epochs(EpochOrder(sizes=SIZES, seed=3, window=window)).flatten()
    jumping = EpochOrder(sizes=SIZES, seed=3, window=window)
    for position in np.random.default_rng(0).permutation(len(whole)):
        assert jumping.index(int(position)) == whole[position]
    assert (epochs(EpochOrder(sizes=SIZES, seed=4, window=window)).flatten() != whole).any()


def test_a_window_bounds_the_shards_in_use() -> None:
    shard = np.repeat(np.arange(len(SIZES)), SIZES)
    for row in epochs(EpochOrder(sizes=SIZES, seed=0, window=2)):
        order = [s for i, s in enumerate(shard[row]) if s not in shard[row][:i]]
        first = {s: int(np.flatnonzero(shard[row] == s)[0]) for s in order}
        last = {s: int(np.flatnonzero(shard[row] == s)[-1]) for s in order}
        # At any time at most two shards have begun and not ended.
        for position in range(N):
            assert sum(first[s] <= position <= last[s] for s in order) <= 2


def test_without_shards_it_is_the_order_of_the_memory_loader() -> None:
    images = torch.zeros(N, 1, 1, 1, dtype=torch.uint8)
    memory = MemoryLoader(images=images, labels=torch.arange(N), batch_size=3 * N, seed=5)
    labels = next(iter(memory)).condition.class_label
    assert labels.tolist() == epochs(EpochOrder(sizes=[N], seed=5)).flatten().tolist()


def test_endless() -> None:
    assert EndlessOrder().size is None
    assert EndlessOrder().index(10**12) == 10**12


def test_ranks_share_a_batch() -> None:
    parts = [rank_slice(100, batch_size=12, rank=r, world_size=3) for r in range(3)]
    assert [list(part) for part in parts] == [list(range(100 + 4 * r, 104 + 4 * r)) for r in range(3)]
