from __future__ import annotations

import errno
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from pixelflow.sampling.outputs import NpzOutput, PngOutput, ShardOutput, make_output
from pixelflow.sampling.store import ImageStore
from tests.unit.sampling.test_store import images

LABELS = torch.arange(10) % 3
FORMS = ["png", "npz", "shards"]


def output(form: Any, folder: Path) -> PngOutput:
    return make_output(form, folder, labels=LABELS, size=16, per_shard=4)


def finished(form: str, folder: Path) -> PngOutput:
    made = output(form, folder)
    missing = made.missing()
    made.store.write(missing, images()[missing])
    made.finish()
    return made


@pytest.mark.parametrize("form", FORMS)
def test_restart_at_any_point(form: str, tmp_path: Path) -> None:
    made = output(form, tmp_path)
    assert made.missing() == list(range(10))
    made.store.write([0, 1, 2, 5], images()[[0, 1, 2, 5]])
    assert output(form, tmp_path).missing() == [3, 4, 6, 7, 8, 9]
    made = finished(form, tmp_path)
    assert output(form, tmp_path).missing() == []
    made.finish()  # once more does no harm
    assert output(form, tmp_path).missing() == []
    assert (tmp_path / "images").exists() == (form == "png")


def test_npz_is_the_one_that_numpy_would_write(tmp_path: Path) -> None:
    made = finished("npz", tmp_path)
    with np.load(made.path, allow_pickle=False) as archive:
        assert archive["arr_0"].dtype == np.uint8 and archive["arr_0"].flags["C_CONTIGUOUS"]
        assert np.array_equal(archive["arr_0"], images().permute(0, 2, 3, 1).numpy())
        assert archive["arr_1"].dtype == np.int64 and np.array_equal(archive["arr_1"], LABELS.numpy())


def test_shards_are_read_by_webdataset(tmp_path: Path) -> None:
    made = finished("shards", tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.tar")) == [f"shard_0000{i}.tar" for i in range(3)]
    assert made.path.name == "shard_{00000..00002}.tar"
    items = list(webdataset.WebDataset(str(made.path), shardshuffle=False).decode("rgb8"))
    assert [item["__key__"] for item in items] == [f"{i:08d}" for i in range(10)]
    assert [int(item["cls"]) for item in items] == LABELS.tolist()
    assert np.array_equal(np.stack([item["png"] for item in items]), images().permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("form", ["npz", "shards"])
@pytest.mark.parametrize("damage", ["truncated", "one byte"])
def test_damaged_output_is_found_and_made_anew(form: str, damage: str, tmp_path: Path) -> None:
    made = finished(form, tmp_path)
    path = tmp_path / ("images.npz" if form == "npz" else "shard_00001.tar")
    whole = path.read_bytes()
    content = bytearray(whole)
    content[700 if form == "npz" else 1700] ^= 1  # in the pixels of the first image
    path.write_bytes(content if damage == "one byte" else content[:1700])
    again = output(form, tmp_path)
    assert again.missing() == (list(range(10)) if form == "npz" else [4, 5, 6, 7])
    finished(form, tmp_path)
    assert path.read_bytes()[:200] == whole[:200] and output(form, tmp_path).missing() == []
    assert made.missing() == []


def test_a_shard_of_other_labels_or_fewer_images_is_not_whole(tmp_path: Path) -> None:
    finished("shards", tmp_path)
    other = ShardOutput(tmp_path, labels=(LABELS + 1) % 3, size=16, per_shard=4)
    assert other.missing() == list(range(10))
    finished("shards", tmp_path)
    path = tmp_path / "shard_00002.tar"
    with tarfile.open(path) as tar:
        kept = [(m, tar.extractfile(m).read()) for m in tar.getmembers()[:-1]]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for member, content in kept:
            tar.addfile(member, io.BytesIO(content))
    assert output("shards", tmp_path).missing() == [8, 9]


def test_npz_of_other_labels_is_not_ours(tmp_path: Path) -> None:
    finished("npz", tmp_path)
    other = NpzOutput(tmp_path, labels=(LABELS + 1) % 3, size=16)
    assert other.missing() == list(range(10))


@pytest.mark.parametrize("form", ["npz", "shards"])
def test_a_full_disk_at_the_end_loses_no_image(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = output(form, tmp_path)
    made.store.write(list(range(10)), images())

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ImageStore, "read" if form == "npz" else "read_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            made.finish()
    assert output(form, tmp_path).missing() == []
    assert not list(tmp_path.glob(".*"))
    made.finish()
    assert output(form, tmp_path).missing() == []
