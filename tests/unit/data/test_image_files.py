"""Finished images on disk: every form gives the same images, and damage is named."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
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


def test_an_image_that_unpacks_to_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")  # 50 kB
    with pytest.raises(UserError, match=r"a\.png cannot be read: .*pixels"):
        open_images(tmp_path)
    Image.new("1", (9_000, 9_000)).save(tmp_path / "a.png")  # below Pillow's own limit
    with pytest.raises(UserError, match=r"a\.png cannot be read: it has 9000 x 9000 pixels, at most 64,000,000"):
        open_images(tmp_path)


def test_pillow_decodes_images_only(tmp_path: Path) -> None:
    """For PostScript it would start Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"a\.png cannot be read: cannot identify image file"):
        open_images(tmp_path)


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_an_npz_whose_header_lies_is_refused(tmp_path: Path) -> None:
    header = npy(IMAGES).replace(b"(5, 8, 8, 3)", b"(9, 8, 8, 3)")
    with pytest.raises(UserError, match=r"arr_0 has 960 bytes of values, and not those of \(9, 8, 8, 3\)"):
        open_images(npz(tmp_path / "a.npz", arr_0=header))
    with pytest.raises(UserError, match=r"arr_0 holds objects|it holds objects"):
        open_images(npz(tmp_path / "b.npz", arr_0=npy(np.array([{}], dtype=object))))


def test_labels_that_are_not_one_number_per_image_are_not_unpacked(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", arr_0=npy(IMAGES), arr_1=npy(np.zeros(100_000_000, dtype=np.uint8)))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"one class for each of the 5 images, got uint8 \(100000000,\)"):
        open_images(path)


@pytest.mark.parametrize("labels", [np.arange(4), np.arange(10).reshape(5, 2), np.array(list("abcde"))])
def test_labels_of_another_length_or_type(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "all.npz", arr_0=IMAGES, arr_1=labels)
    with pytest.raises(
        UserError, match=r"all\.npz cannot be read .*(must hold one class for each of the 5 images|not numbers)"
    ):
        open_images(tmp_path / "all.npz")


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, -1], [0, 1, 2, 3, 0.5], [0, 1, 2, 3, np.nan], [0, 1, 2, 3, 2**40]])
def test_labels_that_are_no_classes(tmp_path: Path, labels: list[float]) -> None:
    np.savez(tmp_path / "all.npz", arr_0=IMAGES, arr_1=np.array(labels))
    with pytest.raises(UserError, match=r"arr_1 must hold classes, which are integers of at least 0"):
        open_images(tmp_path / "all.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("labels", [[10**30], [[1], [2, 3]], "ab", []])
def test_labels_of_a_record_that_are_no_numbers(tmp_path: Path, labels: object) -> None:
    path = folder_of(tmp_path)
    (path / "record.json").write_text(json.dumps({"class_list": labels}))
    with pytest.raises(UserError, match=r"record\.json cannot be read"):
        open_images(path)
