from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pixelflow.data import Digits, ImageFolder, ImageText, Reading, Shapes, WebDataset
from pixelflow.data.dirty import DirtyData
from pixelflow.data.preparation import PrepareSettings, prepare
from pixelflow.data.transforms import center_crop
from pixelflow.errors import UserError, WorkFailed
from tests.unit.data.files import image_folder

N = 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data"), count=N, classes=3, plain=False)


def run(root: Path, output: Path, *, workers: int = 0, share: float = 0.01, **settings: object) -> dict:
    data = ImageFolder(root=str(root), image_size=16, num_classes=3)
    given: dict = {"size": 18, "samples_per_shard": 8} | settings
    return prepare(
        data, split="train", output=output, settings=PrepareSettings(**given), workers=workers, max_bad_share=share
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shards_hold_the_cropped_images_and_the_index_describes_them(root: Path, tmp_path: Path) -> None:
    index = run(root, tmp_path / "out", format="png")
    assert index["samples"] == N
    assert [shard["samples"] for shard in index["shards"]] == [8, 8, 8, 6]
    assert index["classes"] == ["c0", "c1", "c2"]
    source = ImageFolder(root=str(root), image_size=16, num_classes=3).source("train")
    shards = [str(tmp_path / "out" / shard["name"]) for shard in index["shards"]]
    for number, sample in enumerate(webdataset.WebDataset(shards, shardshuffle=False)):
        record = source.read(number)
        pixels = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert np.array_equal(pixels, center_crop(np.array(Image.open(io.BytesIO(record.image))), 18))  # type: ignore[arg-type]
        assert int(sample["cls"]) == record.label
        assert json.loads(sample["json"]) == {"key": record.key, "label": record.label}
    for shard in index["shards"]:
        content = (tmp_path / "out" / shard["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])


def test_workers_change_no_byte(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "a")
    run(root, tmp_path / "b", workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


SCRIPT = """
import sys, time
from pathlib import Path
from pixelflow.data import preparation as module, ImageFolder
write = module._write_shard
def slow(*arguments):
    time.sleep(0.5)  # so that the test finds it in the middle
    return write(*arguments)
module._write_shard = slow
module.prepare(
    ImageFolder(root=sys.argv[1], image_size=16, num_classes=3), split="train", output=Path(sys.argv[2]),
    settings=module.PrepareSettings(size=18, samples_per_shard=8), workers=2, max_bad_share=0.01,
)
"""


def test_killed_in_the_middle_and_run_again_it_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root), str(killed)])
    deadline = time.monotonic() + 60
    while not (killed / "done" / "shard-000001.tar.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()  # its workers are left over, and must not stand in the way
    process.wait()
    assert not (killed / "index.json").exists()
    (killed / ".shard-000002.tar.part").write_bytes(b"half a shard")
    before = (killed / "shard-000000.tar").stat().st_mtime_ns
    with pytest.raises(ValueError, match="job=prepare has not finished there; run it again"):
        WebDataset(root=str(killed), num_classes=3).check()
    run(root, killed)
    run(root, whole)
    assert contents(killed) == contents(whole)
    assert (killed / "shard-000000.tar").stat().st_mtime_ns == before  # it was not written again


def test_a_shard_that_was_damaged_since_is_written_again(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path)
    first = contents(tmp_path)
    (tmp_path / "shard-000001.tar").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"shard-000001.tar does not have the \d+ bytes"):
        WebDataset(root=str(tmp_path), num_classes=3).check()
    run(root, tmp_path)
    assert contents(tmp_path) == first


def test_a_folder_of_other_data_or_settings_is_refused(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    with pytest.raises(ValueError, match="was begun with size 18, now 16; choose another folder"):
        run(root, tmp_path / "out", size=16)
    other = image_folder(tmp_path / "other", count=N, classes=3)
    with pytest.raises(ValueError, match="was begun with content"):
        run(other, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds something else; choose an empty folder"):
        run(root, tmp_path / "full")


def test_bad_samples_are_left_out_and_listed(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    broken.mkdir()
    image_folder(broken, count=N, classes=3)
    (broken / "train" / "c0" / "0003.jpg").write_bytes(b"")
    (broken / "train" / "c1" / "0010.jpg").write_bytes(b"\xff\xd8\xff nothing")
    for _ in range(2):  # the second time all shards are there
        index = run(broken, tmp_path / "out")
        assert index["samples"] == N - 2
        lines = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()]
        assert [(Path(line["file"]).name, line["reason"]) for line in lines] == [
            ("0003.jpg", "empty file"), ("0010.jpg", "not an image"),
        ]  # fmt: skip
    with pytest.raises(DirtyData, match=r"2 of \d+ samples cannot be used .* more than max_bad_share=0.001"):
        run(broken, tmp_path / "strict", share=0.001)


def test_prepared_shards_train(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out", quality=100)
    data = WebDataset(root=str(tmp_path / "out"), image_size=16, num_classes=3, cache_dir=str(tmp_path / "cache"),
                      reading=Reading(workers=0))  # fmt: skip
    data.check()
    assert data.class_names() == ["c0", "c1", "c2"]
    batch = next(iter(data.loader(batch_size=N, seed=0)))
    assert batch.condition.class_label.bincount().tolist() == [10, 10, 10]
    with pytest.raises(ValueError, match=r"num_classes=1000, but .* has 3 classes"):
        WebDataset(root=str(tmp_path / "out")).check()


def test_captions_and_their_embeddings(tmp_path: Path) -> None:
    def encode(captions: list[str]) -> torch.Tensor:
        return torch.tensor([[[len(text)], [text.count(" ")]] for text in captions], dtype=torch.float32)

    data = Shapes(image_size=32, reference_images=40)
    settings = PrepareSettings(size=32, samples_per_shard=16)
    prepare(data, split="train", output=tmp_path / "out", settings=settings, workers=0, max_bad_share=0,
            text_encoder=encode, encoder_name="lengths")  # fmt: skip
    texts = ImageText(root=str(tmp_path / "out"), image_size=32, embeddings=True, cache_dir=str(tmp_path / "cache"),
                      reading=Reading(workers=0))  # fmt: skip
    texts.check()
    condition = next(iter(texts.loader(batch_size=40, seed=0))).condition
    assert condition.caption is not None and condition.text is not None
    assert sorted(condition.caption) == sorted(scene.caption for scene in data.scenes("train"))
    assert torch.equal(condition.text.float(), encode(list(condition.caption)))


def test_any_source(tmp_path: Path) -> None:
    digits = Digits(image_size=8)
    index = prepare(digits, split="held_out", output=tmp_path, settings=PrepareSettings(size=8, format="png"),
                    workers=0, max_bad_share=0)  # fmt: skip
    data = WebDataset(root=str(tmp_path), image_size=8, num_classes=10, channels=1, reference_images=0,
                      cache_dir=str(tmp_path / "cache"))  # fmt: skip
    images, labels = data.images("train")
    assert index["samples"] == 297
    assert torch.equal(images, digits.images("held_out")[0])
    assert torch.equal(labels, digits.images("held_out")[1])


def test_sequence_of_prepared_data_is_that_of_their_count(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    data = WebDataset(root=str(tmp_path / "out"), image_size=16, num_classes=3, cache_dir=str(tmp_path / "cache"),
                      reading=Reading(workers=0))  # fmt: skip
    ids = [batch.sample_id.tolist() for batch in itertools.islice(data.loader(batch_size=6, seed=0), 3)]
    assert ids == [list(range(6 * i, 6 * i + 6)) for i in range(3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, r"^size=0 must be in 1\.\."),
        ({"size": 8, "quality": 101}, r"^quality=101"),
        ({"size": 8, "format": "bmp"}, r"^format=bmp must be one of jpg, png, webp"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareSettings(**settings)


def test_a_full_disk_is_named_and_the_same_command_continues(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if "shard-000002.tar" in os.readlink(f"/proc/self/fd/{descriptor}") and next(calls) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkFailed, match=r"out cannot be written: No space left.*run the same command again"):
        run(root, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*shard*")) == ["shard-000000.tar", "shard-000001.tar"]
    run(root, tmp_path / "out")
    run(root, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_that_another_process_writes_is_refused(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    with open(tmp_path / "out" / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"out is being written by another process"):
            run(root, tmp_path / "out")
    run(root, tmp_path / "out")


def test_a_damaged_record_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "prepare.json").write_text("{")
    with pytest.raises(UserError, match=r"prepare\.json is damaged"):
        run(root, tmp_path)
