"""job=prepare and job=data, from the command line's side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pixelflow.config.validate import check_data
from pixelflow.jobs import benchmark_data, data, find_job, prepare
from tests.conf.test_compose import composed
from tests.unit.data.files import image_folder


def test_prepare_then_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, shards = image_folder(tmp_path / "images", count=40, plain=False), tmp_path / "shards"
    common = ["data.num_classes=2", "data.image_size=32", "data.reading.workers=0"]
    config = composed("job=prepare", "data=imagefolder", f"data.root={root}", f"job.output={shards}", "job.workers=0",
                      *common)  # fmt: skip
    check_data(config, prepare.JOB)
    prepare.JOB.start(config, [])
    told = capsys.readouterr().out
    assert "40 samples in 1 shards" in told
    assert f"train with: data=webdataset data.num_classes=2 data.root={shards}" in told
    given = [f"data.root={shards}", f"job.output={tmp_path / 'out'}", f"data.cache_dir={tmp_path / 'cache'}"]
    config = composed("job=data", "data=webdataset", "job.batches=1", "job.batch_size=16", *given, common[-1])
    assert (config["data"]["image_size"], config["data"]["num_classes"]) == (32, 2), "as index.json says"
    check_data(config, data.JOB)
    data.JOB.start(config, [])
    record = json.loads((tmp_path / "out" / "shards" / "data.json").read_text())
    assert record["training samples"] == 40
    assert record["short side"] == "36 to 36, median 36"  # 1.125 x 32
    assert record["formats"] == {"JPEG RGB": 40}
    assert record["cannot be used"] == "none"
    sheet = Image.open(tmp_path / "out" / "shards" / "contact_sheet.png")
    assert sheet.height == 2 * 33 - 1


def test_captions_stand_beside_their_images(tmp_path: Path) -> None:
    config = composed("job=data", "data=shapes", f"job.output={tmp_path}", "job.samples=5", "job.batches=1")
    data.JOB.start(config, [])
    assert Image.open(tmp_path / "shapes" / "contact_sheet.png").height == 12 * 65 - 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("data=imagefolder", r"data\.root is missing: give a folder with"),
        ("data=imagefolder data.root=nowhere", r"data\.root=nowhere is not a folder"),
        ("data=webdataset data.root=nowhere", r"data\.root=nowhere is not a folder of shards"),
        ("data=huggingface", r"^data\.repository: give one of repository=NAME"),
        ("data=image_text job=data", r"data\.root is missing"),
    ],
)
def test_missing_data_are_reported_before_anything_is_written(overrides: str, message: str) -> None:
    """Whether the sizes are looked for or given."""
    for sizes in ([], ["data.image_size=16", *([] if "image_text" in overrides else ["data.num_classes=10"])]):
        with pytest.raises(ValueError, match=message):
            config = composed(*overrides.split(), *sizes)
            check_data(config, find_job(config["job"]["name"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("job=prepare", "job=prepare needs job.output=FOLDER"),
        ("job=prepare job.output=x job.format=bmp", r"job\.format='bmp': must be 'jpg'"),
        ("job=prepare job.output=x job.quality=0", r"job\.quality=0 must be in 1\.\.100"),
        ("job=data job.batches=0", r"job\.batches=0 must be at least 1"),
        ("data=imagefolder data.preprocess.crop=left", r"data\.preprocess\.crop='left': must be 'random' or 'center'"),
        ("data=imagefolder data.reading.workers=-1", r"reading\.workers=-1 must be at least 0"),
        ("data=image_text data.num_classes=3", r"data\.num_classes=3 must be 1"),
        ("data=webdataset +data.captions.txt=0", r"data\.captions\.txt=0 must be above 0|captions\.txt=0"),
    ],
)
def test_mistakes(overrides: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composed(*overrides.split())


def test_paths_are_no_part_of_a_run() -> None:
    from pixelflow.runs.identity import config_hash

    given = ["data=webdataset", "data.image_size=16", "data.num_classes=10", "data.name=mine"]
    here = composed(*given, "data.root=/here", "data.reading.workers=1")
    there = composed(*given, "data.root=/there", "data.reading.workers=8", "data.cache_dir=/tmp")
    assert config_hash(here) == config_hash(there)
    assert config_hash(here) != config_hash(composed(*given, "data.preprocess.flip=false"))


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    small = ["job.images=16", "job.batch_size=8", "job.batches=2", "job.rounds=1", "job.height=64", "job.width=96"]
    config = composed("job=benchmark_data", *small, "job.image_size=32", f"job.output={tmp_path / 'b.json'}")
    benchmark_data.JOB.start(config, [])
    ways = json.loads((tmp_path / "b.json").read_text())["ways"]
    assert set(ways) == {"torchvision", "imagefolder", "prepared"}
