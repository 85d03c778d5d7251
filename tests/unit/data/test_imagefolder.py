from __future__ import annotations

from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder as Theirs

from pixelflow.data import ImageFolder, Reading
from pixelflow.data.records import BadSample
from tests.unit.data.files import image_folder


def test_files_and_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    root = image_folder(tmp_path, count=30, classes=3)
    (root / "train" / "c1" / "deep").mkdir()
    (root / "train" / "c1" / "deep" / "x.JPEG").write_bytes(b"?")
    (root / "train" / "c1" / "notes.txt").write_text("no image")
    theirs = Theirs(str(root / "train"))
    source = ImageFolder(root=str(root), num_classes=3).source("train")
    assert source.group_sizes == [31]
    assert sorted((source.where(i), source.read(i).label) for i in range(31)) == sorted(theirs.samples)


def test_splits(tmp_path: Path) -> None:
    image_folder(image_folder(tmp_path, count=8), count=4, split="val")
    data = ImageFolder(root=str(tmp_path), image_size=16, num_classes=2)
    assert (len(data.images("train")[0]), len(data.images("held_out")[0])) == (8, 4)
    flat = ImageFolder(root=str(tmp_path / "train"), image_size=16, num_classes=2)
    assert len(flat.images("train")[0]) == 8


def test_a_file_that_vanishes_is_a_bad_sample(tmp_path: Path) -> None:
    source = ImageFolder(root=str(image_folder(tmp_path, count=4)), num_classes=2).source("train")
    Path(source.where(0)).unlink()
    with pytest.raises(BadSample, match="missing file"):
        source.read(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "root is missing: give a folder with"),
        ({"root": "nowhere"}, "root=nowhere is not a folder"),
        ({"root": "{tmp}"}, "num_classes=1000, but .* has 2 class folders"),
        ({"root": "{tmp}/train/c0"}, "has 0 class folders: images must lie in one folder for each class"),
    ],
)
def test_check(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    image_folder(tmp_path, count=4)
    given = {key: value.replace("{tmp}", str(tmp_path)) for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        ImageFolder(**given).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "reading.workers=-1 must be at least 0"),
        ({"depth": 0}, "reading.depth=0 must be at least 1"),
        ({"max_bad_share": 2}, "reading.max_bad_share=2"),
        ({"stall_seconds": 0}, "reading.stall_seconds=0"),
    ],
)
def test_reading(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading(**settings)


def test_sizes_are_found(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "birds", count=6, classes=3)
    (root / "train" / "c0" / "broken.png").write_bytes(b"no image")
    data = ImageFolder(root=str(root))
    assert (data.find_num_classes(), data.find_image_size(), data.own_name()) == (3, 40, "birds")
    for file in (root / "train").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(ValueError, match="none of the 1 images looked at can be read"):
        ImageFolder(root=str(root)).find_image_size()
