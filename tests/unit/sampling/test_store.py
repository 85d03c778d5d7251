from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pixelflow.sampling.store import AsideWriter, ImageStore, written_aside

IDS = list(range(10))


def images(count: int = 10, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, channels, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images", size=16)
    assert store.missing(IDS) == IDS
    store.write(IDS, images())
    return store


def test_every_bit_comes_back(store: ImageStore) -> None:
    assert store.missing(IDS) == []
    assert torch.equal(store.read([3, 0]), images()[[3, 0]])
    assert np.array_equal(np.array(Image.open(store.path(7))), images()[7].permute(1, 2, 0).numpy())


def test_grey_images_get_three_channels(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, size=16)
    store.write([5], images(1, channels=1))
    assert torch.equal(store.read([5]), images(1, channels=1).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "another size", "text", "grey"])
def test_damaged_images_are_found_and_removed(store: ImageStore, damage: str) -> None:
    path = store.path(4)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "one byte":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "text":
        path.write_bytes(b"not an image")
    elif damage == "another size":
        Image.new("RGB", (8, 8)).save(path)
    else:
        Image.new("L", (16, 16)).save(path)
    assert store.missing(IDS) == [4]
    assert not path.exists()


def test_half_written_files_of_a_killed_job_do_not_count(store: ImageStore) -> None:
    (store.folder / ".00000003.png.123.tmp").write_bytes(b"half")
    store.path(3).unlink()
    assert store.missing(IDS) == [3]
    assert not list(store.folder.glob(".*"))


def test_a_full_disk_leaves_no_half_file(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = Path.write_bytes, []

    def fails_at_the_third(self: Path, content: bytes) -> int:
        written.append(self)
        if len(written) >= 3:
            real(self, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", fails_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        store.write(list(range(10, 20)), images())
    monkeypatch.undo()
    assert not list(store.folder.glob(".*"))
    assert len(store.missing(range(20))) == 8  # the two before are whole


def test_written_aside_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_aside(target) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and target.read_text() == "old"


def test_writing_goes_on_beside_and_in_order() -> None:
    threads, written = set(), []

    def write(ids: Sequence[int], batch: Tensor) -> None:
        time.sleep(0.02)
        threads.add(threading.get_ident())
        written.extend(ids)

    start = time.perf_counter()
    with AsideWriter(write, ahead=5) as writer:
        for i in range(5):
            writer.put([i], images(1))
        assert time.perf_counter() - start < 0.08  # not waiting for the five writes of 0.02 s
    assert written == [0, 1, 2, 3, 4]
    assert threads.isdisjoint({threading.get_ident()})


def test_at_most_so_many_batches_wait() -> None:
    release, started = threading.Event(), []

    def write(ids: Sequence[int], batch: Tensor) -> None:
        started.append(ids)
        release.wait(5)

    with AsideWriter(write, ahead=2) as writer:
        writer.put([0], images(1))
        writer.put([1], images(1))
        blocked = threading.Thread(target=writer.put, args=([2], images(1)))
        blocked.start()
        blocked.join(0.1)
        assert blocked.is_alive()
        release.set()
        blocked.join(5)
    assert len(started) == 3


def test_an_error_of_the_writer_reaches_the_loop() -> None:
    def write(ids: Sequence[int], batch: Tensor) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"), AsideWriter(write) as writer:
        for i in range(100):
            writer.put([i], images(1))
        pytest.fail("the loop was not stopped")
