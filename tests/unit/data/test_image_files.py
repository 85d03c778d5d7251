"""Finished images on disk: every form gives the same images, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelflow.data import Digits
from pixelflow.data.image_files import open_images
from pixelflow.data.preparation import PrepareSettings, prepare
from pixelflow.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def folder_of(path: Path) -> Path:
    (path / "images").mkdir(parents=True)
    for i, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(path / "images" / f"{i:08}.png")
    return path


def test_a_folder_and_an_npz_give_the_same_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", arr_0=IMAGES, arr_1=np.arange(5))
    npz, folder = open_images(tmp_path / "all.npz"), open_images(folder_of(tmp_path / "folder"))
    wanted = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    assert torch.equal(npz.read(range(5)), wanted) and torch.equal(folder.read(range(5)), wanted)
    assert torch.equal(npz.read([3, 1]), wanted[[3, 1]])
    assert npz.labels is not None and npz.labels.tolist() == list(range(5))


def test_shards_have_labels(tmp_path: Path) -> None:
    settings = PrepareSettings(size=8, format="png", samples_per_shard=100)
    digits = Digits(image_size=8)
    prepare(digits, split="held_out", output=tmp_path, settings=settings, workers=0, max_bad_share=0)
    files, (images, labels) = open_images(tmp_path), digits.images("held_out")
    assert files.labels is not None and torch.equal(files.labels, labels)
    assert torch.equal(files.read([0, 150, 296])[:, :1], images[[0, 150, 296]])


def test_damage_is_a_users_error_and_names_the_file(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "made")
    (path / "record.json").write_text(json.dumps({"classes": "all"}))
    with pytest.raises(UserError, match=r"record\.json cannot be read: KeyError\('class_list'\)"):
        open_images(path)
    (path / "record.json").write_text(json.dumps({"class_list": [4, 2]}))
    files = open_images(path)
    assert files.labels is not None and files.labels.tolist() == [4, 2, 4, 2, 4]
    (path / "images" / "00000003.png").write_bytes(b"half")
    with pytest.raises(UserError, match=r"00000003\.png cannot be read"):
        files.read(range(5))
    (tmp_path / "a.npz").write_bytes(b"half")
    with pytest.raises(UserError, match=r"a\.npz cannot be read as an \.npz of images"):
        open_images(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=IMAGES)
    with pytest.raises(UserError, match=r"b\.npz cannot be read .*: it has no arr_0 \(it has images\)"):
        open_images(tmp_path / "b.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.png"):
        open_images(tmp_path / "empty")
