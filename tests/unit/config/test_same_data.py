"""The same command with other data is refused by job=train, by job=pipeline and by sweeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pixelflow.config.same_data import FILE, check_same_data, examine_data
from pixelflow.config.sweep_requests import RunRequests
from pixelflow.errors import UserError
from pixelflow.jobs import find_job
from pixelflow.runs.context import run_path
from pixelflow.runs.status import read_status
from pixelflow.workflows.run_pipeline import run_pipeline
from pixelflow.workflows.train_run import run_training
from tests.conf.test_compose import composed
from tests.unit.data.files import image_folder
from tests.unit.data.test_fingerprint import write_shard

TINY = [
    *("job=train", "tracking=none", "trainer.device=cpu", "trainer.batch_size=4", "trainer.max_steps=2"),
    *("trainer.grid_every=0", "backbone.depth=1", "backbone.num_heads=1", "backbone.head_dim=8"),
    *("data.image_size=16", "data.num_classes=2", "data.reading.workers=0", "objective=flow_matching"),
    "data.name=mine",
]
"""Two steps of training on a folder or on shards."""


def command(kind: str, root: Path, runs: Path, *more: str) -> list[str]:
    return [*TINY, f"data={kind}", f"data.root={root}", f"runs_dir={runs}", *more]


def train(overrides: list[str]) -> Path:
    config = composed(*overrides)
    run_training(config, overrides)
    return run_path(config, overrides)


def made(kind: str, root: Path, count: int) -> Path:
    if kind == "imagefolder":
        return image_folder(root, count=count)
    return write_shard(root / "0.tar", count)


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_other_data_are_refused_and_moved_ones_are_not(kind: str, tmp_path: Path) -> None:
    cache = [f"data.cache_dir={tmp_path / 'cache'}"] if kind == "webdataset" else []
    one, runs = made(kind, tmp_path / "one", 6), tmp_path / "runs"
    path = train(command(kind, one, runs, *cache))
    assert json.loads((path / FILE).read_text())["images"] == 6
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    two = made(kind, tmp_path / "two", 8)
    with pytest.raises(UserError) as refused:
        train(command(kind, two, runs, *cache))
    message = str(refused.value)
    assert f"data.root={two} holds other data" in message and "8 images instead of 6" in message
    assert f"data.root={one}" in message and "rerun=true" in message and "experiment=" in message
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}, "nothing was touched"
    moved = one.rename(tmp_path / "moved")
    assert train(command(kind, moved, runs, *cache)) == path
    other = train(command(kind, two, runs, *cache, "experiment=other"))
    assert other != path and json.loads((other / FILE).read_text())["images"] == 8


def test_a_finished_pipeline(tmp_path: Path) -> None:
    """The check stands before the message that the finished run is there already."""
    one, two, runs = image_folder(tmp_path / "one", count=6), image_folder(tmp_path / "two", count=7), tmp_path / "runs"
    path = train(command("imagefolder", one, runs))
    overrides = command("imagefolder", two, runs)
    with pytest.raises(UserError, match="7 images instead of 6"):
        run_pipeline(composed(*overrides), overrides)
    assert read_status(path).state == "finished"


def test_another_run_of_the_same_command(tmp_path: Path) -> None:
    one, two, runs = image_folder(tmp_path / "one", count=6), image_folder(tmp_path / "two", count=7), tmp_path / "runs"
    train(command("imagefolder", one, runs))
    overrides = command("imagefolder", two, runs, "rerun=true")
    run_training(composed(*overrides), overrides)
    assert sorted(json.loads(file.read_text())["images"] for file in runs.glob(f"*/*/{FILE}")) == [6, 7]


def test_old_folders_damaged_records_and_runs_without_weights(tmp_path: Path) -> None:
    one, two, runs = image_folder(tmp_path / "one", count=6), image_folder(tmp_path / "two", count=7), tmp_path / "runs"
    path = train(command("imagefolder", one, runs))
    other = composed(*command("imagefolder", two, runs))
    content = (path / FILE).read_text()
    for damaged in ("[", "[]", "{}"):
        (path / FILE).write_text(damaged)
        with pytest.raises(UserError, match=f"{FILE} is damaged; remove it"):
            check_same_data(other, path)
    (path / FILE).unlink()
    check_same_data(other, path)
    (path / FILE).write_text(content)
    with pytest.raises(UserError, match="7 images instead of 6"):
        check_same_data(other, path)
    (path / "status.json").unlink()
    shutil.rmtree(path / "checkpoints")
    check_same_data(other, path)
    again = examine_data(other, path)
    assert again is not None and again["images"] == 7


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_data_without_images_leave_no_run_folder(kind: str, tmp_path: Path) -> None:
    if kind == "imagefolder":
        for name in ("c0", "c1"):
            (tmp_path / "empty" / "train" / name).mkdir(parents=True)
    else:
        write_shard(tmp_path / "empty" / "0.tar", 0)
    cache = [f"data.cache_dir={tmp_path / 'cache'}"] if kind == "webdataset" else []
    with pytest.raises(UserError, match=r"data.root=.*empty.*no (images|samples)"):
        train(command(kind, tmp_path / "empty", tmp_path / "runs", *cache))
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_refused_before_it_is_submitted(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    from tests.conf.test_compose import ROOT

    one, two, runs = image_folder(tmp_path / "one", count=6), image_folder(tmp_path / "two", count=7), tmp_path / "runs"
    train(command("imagefolder", one, runs))
    requests = RunRequests("local", find_job)

    def request(root: Path, *more: str) -> Any:
        overrides = command("imagefolder", root, runs, *more)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return requests.make(0, compose("run", overrides=overrides), overrides)

    request(one)
    with pytest.raises(UserError, match=r"run 0 .*data.root=.*two does not make another run than data.root=.*one"):
        request(two)
    with pytest.raises(UserError, match=r"7 images instead of 6.*nothing was submitted"):
        requests = RunRequests("local", find_job)
        request(two)
