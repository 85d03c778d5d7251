from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pixelflow.data.in_memory import MemoryLoader

N = 10
IMAGES = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 1, 2, 2) * 25
LABELS = torch.arange(N)


def loader(batch_size: int = 4, seed: int = 0) -> MemoryLoader:
    return MemoryLoader(images=IMAGES, labels=LABELS, batch_size=batch_size, seed=seed)


def labels_of(loader: MemoryLoader, batches: int) -> Tensor:
    return torch.cat([batch.condition.class_label for batch in itertools.islice(loader, batches)])


def test_every_epoch_is_a_permutation_and_another_one() -> None:
    epochs = labels_of(loader(), 10).view(4, N)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(N))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_batches_run_over_the_ends_of_epochs() -> None:
    batches = list(itertools.islice(loader(), 6))
    assert [len(batch) for batch in batches] == [4] * 6
    assert torch.cat([batch.sample_id for batch in batches]).tolist() == list(range(24))
    large = next(iter(loader(batch_size=25)))
    assert large.condition.class_label[:20].bincount().tolist() == [2] * N


@pytest.mark.parametrize("batch_size", [1, 3, 5, 12])
def test_the_sequence_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    assert torch.equal(labels_of(loader(batch_size), 60 // batch_size), labels_of(loader(4), 15))


def test_seeds_differ() -> None:
    assert torch.equal(labels_of(loader(seed=1), 5), labels_of(loader(seed=1), 5))
    assert not torch.equal(labels_of(loader(seed=1), 5), labels_of(loader(seed=2), 5))


def test_images_go_with_their_labels_in_minus_one_to_one() -> None:
    for batch in itertools.islice(loader(), 5):
        expected = batch.condition.class_label.float()[:, None, None, None] * 25 / 127.5 - 1
        torch.testing.assert_close(batch.x, expected.expand(4, 1, 2, 2))
    extremes = MemoryLoader(images=torch.tensor([[0, 255]], dtype=torch.uint8), labels=LABELS[:1], batch_size=1, seed=0)
    assert next(iter(extremes)).x.tolist() == [[-1, 1]]


@pytest.mark.parametrize("taken", [0, 1, 2, 7])  # 2: in the middle of an epoch; 7: in the third
def test_a_restored_position_continues(taken: int) -> None:
    first = loader()
    expected = labels_of(first, taken + 9)[4 * taken :]
    stopped = loader()
    labels_of(stopped, taken) if taken else None
    state = stopped.state_dict()
    resumed = loader()
    labels_of(resumed, 3)  # wherever it stood before
    resumed.load_state_dict(state)
    assert torch.equal(labels_of(resumed, 9), expected)


def test_a_running_iteration_follows_a_restored_position() -> None:
    running = loader()
    batches = iter(running)
    next(batches)
    running.load_state_dict({"position": 0})
    assert next(batches).sample_id.tolist() == [0, 1, 2, 3]


def test_the_state_is_json() -> None:
    some = loader()
    labels_of(some, 2)
    assert some.state_dict() == {"position": 8}
