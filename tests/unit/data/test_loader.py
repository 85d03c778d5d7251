from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch

from pixelflow.data import ImageFolder, Preprocess, Reading
from pixelflow.data.loader import StreamLoader, choose_caption
from pixelflow.data.records import BadSample, Record
from pixelflow.data.workers import WorkerError
from pixelflow.errors import WorkFailed
from tests.unit.data.files import grey_of, image_folder

N = 24
BATCH = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data"), count=N, plain=False)


def loader(
    root: Path, *, workers: int = 0, rank: int = 0, world_size: int = 1, seed: int = 0, **reading
) -> StreamLoader:
    data = ImageFolder(root=str(root), image_size=16, num_classes=2, reading=Reading(workers=workers, **reading))
    return data.loader(batch_size=BATCH, seed=seed, rank=rank, world_size=world_size)


def take(loader: StreamLoader, batches: int) -> list[torch.Tensor]:
    """x, label and id of each image, as rows."""
    rows = []
    for batch in itertools.islice(loader, batches):
        flat = torch.cat([batch.x.flatten(1), batch.condition.class_label[:, None], batch.sample_id[:, None]], dim=1)
        rows += list(flat)
    return rows


@pytest.fixture(scope="module")
def sequence(root: Path) -> torch.Tensor:
    """Nine batches (three epochs) read in this process, which every other configuration must reproduce bit for bit."""
    return torch.stack(take(loader(root), 9))


def test_every_epoch_holds_every_sample_once(tmp_path: Path) -> None:
    batches = list(itertools.islice(loader(image_folder(tmp_path, count=N)), 9))
    greys = [grey for batch in batches for grey in grey_of(batch.x)]
    for epoch in range(3):
        assert sorted(greys[epoch * N : (epoch + 1) * N]) == list(range(N))
    assert greys[:N] != greys[N : 2 * N]
    for batch in batches:
        assert [grey % 2 for grey in grey_of(batch.x)] == batch.condition.class_label.tolist()
        assert batch.x.dtype == torch.float32 and batch.x.is_contiguous()


def test_two_ranks_of_two_workers_give_the_same_sequence(root: Path, sequence: torch.Tensor) -> None:
    ranks = [loader(root, workers=2, rank=rank, world_size=2) for rank in range(2)]
    parts = [take(one, 9) for one in ranks]
    together = torch.stack([*parts[0], *parts[1]])
    assert torch.equal(together[together[:, -1].argsort()], sequence)
    for one in ranks:
        one.close()


@pytest.mark.parametrize("taken", [0, 1, 2, 4])
def test_resume_with_another_number_of_ranks_and_workers(root: Path, sequence: torch.Tensor, taken: int) -> None:
    ranks = [loader(root, workers=2, rank=rank, world_size=2) for rank in range(2)]
    for one in ranks:
        take(one, taken)
    states = [one.state_dict() for one in ranks]
    assert states[0] == states[1] == {"position": taken * BATCH, "samples": N}
    for one in ranks:
        one.close()
    resumed = loader(root, workers=3)
    resumed.load_state_dict(states[0])
    assert torch.equal(torch.stack(take(resumed, 9 - taken)), sequence[taken * BATCH :])
    resumed.close()


def test_a_running_iteration_follows_a_restored_position(root: Path, sequence: torch.Tensor) -> None:
    running = loader(root, workers=2)
    batches = iter(running)
    next(batches)
    running.load_state_dict({"position": 3 * BATCH, "samples": N})
    assert next(batches).sample_id.tolist() == list(range(24, 32))
    running.close()


def test_a_position_in_other_data_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="the data have 24 samples, but they had 25 when this run was saved"):
        loader(root).load_state_dict({"position": 0, "samples": 25})


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_is_replaced_without_loss(root: Path, sequence: torch.Tensor, victim: int) -> None:
    one = loader(root, workers=2)
    batches = iter(one)
    rows = [next(batches) for _ in range(2)]
    assert one._pool is not None
    before = one._pool.pids
    os.kill(before[victim], signal.SIGKILL)
    rows += [next(batches) for _ in range(7)]
    assert one._pool.pids != before
    x = torch.cat([batch.x.flatten(1) for batch in rows])
    assert torch.equal(x, sequence[:, :-2])
    one.close()


def test_a_worker_that_dies_repeatedly_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = loader(root, workers=1, retries=1)
    monkeypatch.setattr(type(one.maker.source), "read", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        WorkerError, match=r"data worker 0 was killed by SIGKILL .* while reading .*\.jpg; tried 2 times"
    ):
        next(iter(one))


def test_a_stalled_worker_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    one = loader(root, workers=1, retries=1, stall_seconds=0.3)
    monkeypatch.setattr(type(one.maker.source), "read", lambda self, index: time.sleep(100))
    with pytest.raises(WorkerError, match=r"no progress for 0.3 s while reading .*\.jpg; tried 2 times"):
        next(iter(one))


def test_a_failure_of_the_storage_is_named_with_its_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: object, index: int) -> None:
        raise OSError("the disk is gone")

    one = loader(root, workers=1)
    monkeypatch.setattr(type(one.maker.source), "read", read)
    with pytest.raises(WorkFailed, match=r"\.jpg cannot be read: the disk is gone"):
        next(iter(one))


def test_the_workers_end_with_their_loader(root: Path) -> None:
    one = loader(root, workers=2)
    next(iter(one))
    assert one._pool is not None
    pids = one._pool.pids
    del one
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_memory_is_stated(root: Path) -> None:
    one = loader(root, workers=2, depth=3)
    next(iter(one))
    assert one._pool is not None
    assert one.buffer_bytes == one._pool.slots.nbytes == 2 * 3 * BATCH * 16 * 16 * 3
    one.close()


def test_flips_and_crops_belong_to_the_position(root: Path) -> None:
    def crops(seed: int, flip: bool) -> torch.Tensor:
        data = ImageFolder(root=str(root), image_size=16, num_classes=2, preprocess=Preprocess(flip=flip),
                           reading=Reading(workers=0))  # fmt: skip
        return next(iter(data.loader(batch_size=N, seed=seed))).x

    assert torch.equal(crops(0, True), crops(0, True))
    assert not torch.equal(crops(0, False), crops(1, False))
    mirrored = (crops(0, True) != crops(0, False)).flatten(1).any(dim=1)
    assert 0 < mirrored.sum() < N
    equal = torch.where(mirrored[:, None, None, None], crops(0, True).flip(-1), crops(0, True))
    assert torch.equal(equal, crops(0, False))


def test_ranks_must_divide_the_batch(root: Path) -> None:
    with pytest.raises(ValueError, match=r"^batch_size=8 must be divisible by the number of ranks, 3"):
        loader(root, world_size=3)


def test_captions_are_chosen_by_weight_among_those_there() -> None:
    record = Record(key="a", image=b"", captions={"long": "a long one", "short": "short", "empty": " "})
    drawn = [choose_caption(record, {"long": 3, "short": 1, "empty": 5}, u / 100) for u in range(100)]
    assert (drawn.count("a long one"), drawn.count("short")) == (75, 25)
    with pytest.raises(BadSample, match="missing caption"):
        choose_caption(record, {"empty": 1, "other": 1}, 0.5)
