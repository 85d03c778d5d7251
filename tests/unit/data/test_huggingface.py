from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pixelflow.data import HuggingFace, Reading
from pixelflow.data.records import BadSample
from tests.unit.data.files import encoded, grey_of

pytest.importorskip("datasets")
N = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows as ILSVRC/imagenet-1k has them: an image struct and a label; one hidden label, one image missing."""
    folder = tmp_path_factory.mktemp("parquet")
    for split, first in (("train", 0), ("validation", 100)):
        for part in range(2):
            rows = [first + 6 * part + i for i in range(6)]
            images = [{"bytes": encoded(Image.new("RGB", (24, 20), (i,) * 3), quality=100), "path": None} for i in rows]
            labels = [i % 2 for i in rows]
            if first:
                images[0], labels[1] = None, -1  # type: ignore[call-overload]
            table = pyarrow.table({"image": images, "label": labels, "text": [f"grey {i}" for i in rows]})
            pyarrow.parquet.write_table(table, folder / f"{split}-{part:05}-of-00002.parquet")
    return folder


def data(root: Path, tmp_path: Path, **settings: object) -> HuggingFace:
    defaults: dict = {"image_size": 16, "num_classes": 2, "reading": Reading(workers=0, max_bad_share=1)}
    return HuggingFace(root=str(root), cache_dir=str(tmp_path / "cache"), **(defaults | settings))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_holds_every_row_once(root: Path, tmp_path: Path, workers: int) -> None:
    some = data(root, tmp_path, captions={"text": 1.0}, reading=Reading(workers=workers))
    loader = some.loader(batch_size=6, seed=0)
    batches = list(itertools.islice(loader, 2))
    loader.close()
    greys = [grey for batch in batches for grey in grey_of(batch.x)]
    assert sorted(greys) == list(range(N))
    assert [c for b in batches for c in b.condition.caption or ()] == [f"grey {i}" for i in greys]
    assert [c for b in batches for c in b.condition.class_label.tolist()] == [i % 2 for i in greys]


def test_hidden_labels_and_missing_images_are_left_out(root: Path, tmp_path: Path) -> None:
    images, labels = data(root, tmp_path, reference_images=0).images("held_out")
    assert len(images) == len(labels) == N - 2  # one image missing in each file; a hidden label is no reason here
    source = data(root, tmp_path).source("held_out")
    assert source.read(1).label is None
    assert source.where(1) == "huggingface validation row 1"


def test_a_pattern_and_data_without_classes(root: Path, tmp_path: Path) -> None:
    some = data(root, tmp_path)
    some = HuggingFace(root=f"{root}/train-00000*.parquet", cache_dir=str(tmp_path / "cache"), image_size=16,
                       num_classes=1, label_column=None, reading=Reading(workers=0))  # fmt: skip
    batch = next(iter(some.loader(batch_size=6, seed=0)))
    assert sorted(grey_of(batch.x)) == list(range(6))
    assert batch.condition.class_label.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "^repository: give one of repository=NAME and root=PARQUET_FILES"),
        ({"root": "a", "repository": "b"}, "give one of"),
        ({"root": "nowhere"}, "root=nowhere has no parquet files for the split train"),
    ],
)
def test_check(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HuggingFace(**settings).check()  # type: ignore[arg-type]


def test_a_missing_column_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column picture; there are image, label, text"):
        data(root, tmp_path, image_column="picture").source("train")


def test_a_row_names_files_of_the_data_only(tmp_path: Path) -> None:
    """A parquet file from elsewhere could otherwise bring any image of this machine into the training data."""
    image = Image.new("RGB", (24, 20))
    (tmp_path / "data").mkdir()
    image.save(tmp_path / "data" / "ours.png")
    image.save(tmp_path / "private.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "private.png")
    names = ["data/ours.png", "private.png", "data/../private.png", "data/link.png"]
    rows = {"image": [{"bytes": None, "path": str(tmp_path / name)} for name in names], "label": [0] * 4}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data" / "train.parquet")
    source = data(tmp_path / "data", tmp_path).source("train")
    assert source.read(0).image == (tmp_path / "data" / "ours.png").read_bytes()
    for row in (1, 2, 3):
        with pytest.raises(BadSample, match="file outside the data"):
            source.read(row)


def test_sizes_are_found(root: Path, tmp_path: Path) -> None:
    """The classes by the features in the schema, as `datasets` writes them; sizes by the first images of each file."""
    with pytest.raises(ValueError, match=r"column label of .* names no classes"):
        data(root, tmp_path).find_num_classes()
    with pytest.raises(ValueError, match=r"image_size is not given, and .* 12 images 12 of 24 x 20 pixels"):
        data(root, tmp_path).find_image_size()
    assert data(root, tmp_path, label_column=None).find_num_classes() == 1
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    images = [{"bytes": encoded(Image.new("RGB", (20, 20)), "PNG"), "path": None}, None]
    rows = datasets.Dataset.from_dict({"image": images, "label": [0, 2]}, features=features)
    rows.to_parquet(tmp_path / "birds" / "train.parquet")
    named = data(tmp_path / "birds", tmp_path)
    assert (named.find_num_classes(), named.find_image_size(), named.own_name()) == (3, 20, "birds")
    (tmp_path / "birds" / "train.parquet").write_text("PAR1")
    for find in (named.find_num_classes, named.find_image_size):
        with pytest.raises(ValueError, match=r"train\.parquet cannot be read"):
            find()
    asked = HuggingFace(repository="owner/birds")
    for find in (asked.find_num_classes, asked.find_image_size):
        with pytest.raises(ValueError, match="a repository is not downloaded"):
            find()
    assert asked.own_name() == "birds"
