"""What a command leaves open about its data is found once, before validation, and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pixelflow.config.accepted import Accepted
from pixelflow.config.data_sizes import find_sizes
from pixelflow.data import ImageFolder
from pixelflow.errors import UserError
from pixelflow.runs.context import run_path
from pixelflow.runs.identity import config_hash
from pixelflow.workflows.train_run import run_training
from tests.conf.test_compose import composed
from tests.unit.data.files import encoded, image_folder, picture

SMALL = [
    *("job=train", "tracking=none", "trainer.device=cpu", "trainer.batch_size=4", "trainer.max_steps=1"),
    *("trainer.grid_every=0", "backbone.depth=1", "backbone.num_heads=1", "backbone.head_dim=8"),
    *("data=imagefolder", "data.reading.workers=0", "objective=flow_matching", "cascade.num_stages=1"),
]


def test_a_folder_as_it_comes_is_trained_on(tmp_path: Path) -> None:
    """The record holds the numbers, every section has them, and giving them is the same run."""
    root = image_folder(tmp_path / "birds", count=9, classes=3)
    call = [*SMALL, f"data.root={root}", f"runs_dir={tmp_path / 'runs'}"]
    config = composed(*call)
    found = {"image_size": 40, "num_classes": 3, "name": "birds"}
    assert {key: config["data"][key] for key in found} == found
    assert (config["cascade"]["image_size"], config["backbone"]["num_classes"]) == (40, 3)
    given = composed(*call, *(f"data.{key}={value}" for key, value in found.items()))
    assert {**given, "overrides": []} == {**config, "overrides": []} and config_hash(given) == config_hash(config)
    run_training(config, call)
    path = run_path(config, call)
    assert yaml.safe_load((path / "config.yaml").read_text())["data"] == config["data"]
    again = composed("job=sample", f"checkpoint={path / 'checkpoints' / 'step_00000001'}")
    assert again["data"]["image_size"] == 40, "the stored numbers are read, and the data are not looked at"


def test_sizes_that_differ_are_told(tmp_path: Path) -> None:
    root = image_folder(tmp_path, count=4)
    for number, (high, wide) in enumerate([(30, 40), (30, 40), (50, 20)]):
        (root / "train" / "c0" / f"x{number}.png").write_bytes(encoded(picture(0, high, wide), "PNG"))
    with pytest.raises(UserError) as caught:
        composed("data=imagefolder", f"data.root={root}")
    assert str(caught.value) == (
        "data.image_size is not given, and the images are not square and of one size: of 7 images 4 of 40 x 40, "
        "2 of 40 x 30, 1 of 20 x 50 pixels, short sides from 20 to 40; give the number of pixels to which they are "
        "cropped"
    )
    config = composed("job=data", "data=imagefolder", f"data.root={root}", "data.image_size=32")
    assert config["data"]["num_classes"] == 2


def test_options_of_the_data_are_checked_before_the_data_are_looked_at(tmp_path: Path) -> None:
    for wrong in ("data.channels=2", "data.reference_images=-1", "data.preprocess.crop=left"):
        with pytest.raises(UserError, match=wrong.replace("left", "'left'")):
            composed("data=imagefolder", f"data.root={tmp_path}", wrong)
    with pytest.raises(UserError, match=r"data\.bogus is not an option of pixelflow\.data\.ImageFolder"):
        composed("data=imagefolder", f"data.root={image_folder(tmp_path, count=2)}", "+data.bogus=1")


def test_the_data_of_a_sweep_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    calls: list[str] = []
    look = ImageFolder.find_image_size
    monkeypatch.setattr(ImageFolder, "find_image_size", lambda self: calls.append("") or look(self))  # type: ignore[func-returns-value]
    node = {"_target_": "pixelflow.data.ImageFolder", "root": str(image_folder(tmp_path, count=4)), "image_size": None}
    accepted = Accepted()
    for _ in range(3):
        config = OmegaConf.create({"data": dict(node)})
        find_sizes(config, accepted)
        assert config.data.image_size == 40
    assert len(calls) == 1


def test_data_that_find_nothing() -> None:
    """The check of the whole config names the key."""
    with pytest.raises(UserError, match=r"data\.image_size=None: must be a valid integer"):
        composed("data.image_size=null")


def test_the_index_of_shards_is_data(tmp_path: Path) -> None:
    index = {"shards": [], "classes": ["a", "b"], "image_size": "8"}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"data\.image_size is not given, and .* has no index\.json that states it"):
        composed("data=webdataset", f"data.root={tmp_path}")
