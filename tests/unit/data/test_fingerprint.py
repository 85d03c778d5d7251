from __future__ import annotations

import shutil
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from pixelflow.data import ImageData, ImageFolder, MemorySource, WebDataset
from pixelflow.data.fingerprint import difference, fingerprint
from pixelflow.data.records import Split
from tests.unit.data.files import encoded, image_folder, picture


class Greys(ImageData):
    """A source of a user, whose records have no method `hashes`."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__({}, name="greys", image_size=4, num_classes=2)
        self.pixels = images

    def open(self, split: Split) -> MemorySource:
        return MemorySource(self.pixels, torch.arange(len(self.pixels)) % 2, name="grey")


def folder(root: Path) -> dict[str, Any]:
    return fingerprint(ImageFolder(root=str(root), num_classes=2))


def shards(root: Path, tmp_path: Path) -> dict[str, Any]:
    return fingerprint(WebDataset(root=str(root), num_classes=2, cache_dir=str(tmp_path / "cache")))


def write_shard(path: Path, count: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i in range(count):
            for extension, content in (("png", encoded(picture(seed + i), "PNG")), ("cls", str(i % 2).encode())):
                member = tarfile.TarInfo(f"{i:04}.{extension}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
    return path.parent


def test_files_that_were_moved_are_the_same(tmp_path: Path) -> None:
    there = image_folder(tmp_path / "there", count=6)
    before = folder(there)
    assert (before["images"], before["classes"]) == (6, ["c0", "c1"])
    shutil.copytree(there, tmp_path / "copy")
    assert difference(before, folder(tmp_path / "copy")) is None
    assert difference(before, folder(there.rename(tmp_path / "moved"))) is None


def test_other_files_differ(tmp_path: Path) -> None:
    there = image_folder(tmp_path / "there", count=6)
    before = folder(there)
    assert difference(before, folder(image_folder(tmp_path / "more", count=7))) == "7 images instead of 6"
    other = Path(shutil.copytree(there, tmp_path / "classes"))
    (other / "train" / "c1").rename(other / "train" / "dog")
    assert difference(before, folder(other)) == "2 classes (c0, dog) instead of 2 classes (c0, c1)"
    renamed = Path(shutil.copytree(there, tmp_path / "renamed"))
    (renamed / "train" / "c0" / "0000.jpg").rename(renamed / "train" / "c0" / "0009.jpg")
    assert difference(before, folder(renamed)) == "the names and sizes of the images differ"
    resized = Path(shutil.copytree(there, tmp_path / "resized"))
    (resized / "train" / "c0" / "0000.jpg").write_bytes(encoded(picture(0, 16, 16)))
    assert difference(before, folder(resized)) == "the sizes of the images differ"


def test_shards(tmp_path: Path) -> None:
    there = write_shard(tmp_path / "there" / "0.tar", 4)
    before = shards(there, tmp_path)
    assert before["images"] == 4 and "classes" not in before
    assert difference(before, shards(Path(shutil.copytree(there, tmp_path / "copy")), tmp_path)) is None
    assert difference(before, shards(write_shard(tmp_path / "more" / "0.tar", 5), tmp_path)) == "5 images instead of 4"
    named = shards(write_shard(tmp_path / "named" / "1.tar", 4), tmp_path)
    assert difference(before, named) == "the names of the images differ"
    bigger = write_shard(tmp_path / "bigger" / "0.tar", 4)
    with open(bigger / "0.tar", "ab") as stream:
        stream.write(bytes(10240))
    assert difference(before, shards(bigger, tmp_path)) == "the sizes of the images differ"


def test_shards_behind_a_url_are_those_of_the_folder(tmp_path: Path) -> None:
    there = write_shard(tmp_path / "there" / "0.tar", 4)
    behind = fingerprint(WebDataset(root=f"file://{there}", num_classes=2, cache_dir=str(tmp_path / "cache")))
    assert "sizes" not in behind
    assert difference(shards(there, tmp_path), behind) is None
    write_shard(there / "0.tar", 6)
    again = fingerprint(WebDataset(root=f"file://{there}", num_classes=2, cache_dir=str(tmp_path / "other_cache")))
    assert difference(behind, again) == "6 images instead of 4"


def test_a_source_that_names_no_files_is_known_by_a_few_records() -> None:
    greys = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    before = fingerprint(Greys(greys))
    assert before["images"] == 4
    assert difference(before, fingerprint(Greys(greys.clone()))) is None
    assert difference(before, fingerprint(Greys(greys + 1))) == "the contents of the images differ"
