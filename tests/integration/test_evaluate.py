"""job=evaluate as a user calls it: without files, interrupted, divided among processes, on images of all kinds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SMALL = ["tracking=none", "solver.num_steps=2", "sampler.num_samples=64", "sampler.batch_size=8"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def call(*arguments: str, launcher: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    if launcher is None:
        return forked.call("run.py", *arguments)
    command = [*launcher, str(ROOT / "run.py"), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = call("job=train", "tracking=none", "trainer.max_steps=2", "trainer.batch_size=8", "trainer.grid_every=0",
                f"runs_dir={runs}", "backbone.depth=2", "backbone.num_heads=2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = runs.glob("*/*/checkpoints/step_00000002")
    return found


def evaluate(checkpoint: Path, *arguments: str, launcher: list[str] | None = None) -> dict:
    done = call("job=evaluate", *of(checkpoint), *SMALL, *arguments, launcher=launcher)
    assert done.returncode == 0, done.stderr
    (path,) = (checkpoint.parent.parent / "evaluation").glob("*.json")
    assert f"record: {path}" in done.stdout
    return json.loads(path.read_text())


def of(checkpoint: Path) -> list[str]:
    """The arguments by which a command works in the run of a checkpoint."""
    return [f"checkpoint={checkpoint}", f"runs_dir={checkpoint.parents[2]}"]


def copy_of(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder / "checkpoints" / checkpoint.name)
    shutil.copy(checkpoint.parents[1] / "config.yaml", folder)
    return folder / "checkpoints" / checkpoint.name


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return evaluate(copy_of(checkpoint, tmp_path_factory.mktemp("straight")), "sampler.fixed_batch=8")


@pytest.mark.slow
def test_a_number_without_files_and_with_its_record(checkpoint: Path, straight: dict, tmp_path: Path) -> None:
    mine = copy_of(checkpoint, tmp_path)
    found = evaluate(mine, "sampler.fixed_batch=8")
    record = found["record"]
    assert found["metrics"]["num_samples"] == 64 and found["metrics"]["fd_digits"] > 0
    known = {"checkpoint", "step", "weights", "solver", "guidance", "seed", "features", "weights_of_features", "uint8"}
    known |= {"preprocessing", "reference", "reference_content", "num_samples", "versions", "time"}
    assert known <= set(record)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "config.yaml", "evaluation"]
    assert len(list((tmp_path / "evaluation").iterdir())) == 1, "the state is gone"
    again = call("job=evaluate", *of(mine), *SMALL, "sampler.fixed_batch=8")
    assert again.returncode == 0 and "there already" in again.stderr
    costs = ("seconds_per_image",)
    same = {key: value for key, value in found["metrics"].items() if key not in costs}
    assert same == {key: value for key, value in straight["metrics"].items() if key not in costs}


@pytest.mark.slow
def test_a_checkpoint_of_another_is_measured_once(checkpoint: Path, tmp_path: Path) -> None:
    """Its results lie below runs_dir, and a copy of it elsewhere finds them."""
    theirs = copy_of(checkpoint, tmp_path / "theirs")
    before = {path: path.read_bytes() for path in (tmp_path / "theirs").rglob("*") if path.is_file()}
    arguments = ["job=evaluate", f"runs_dir={tmp_path / 'runs'}", *SMALL]
    first = call(*arguments, f"checkpoint={theirs}")
    assert first.returncode == 0 and "its results go to" in first.stderr, first.stderr
    (home,) = (tmp_path / "runs" / "_checkpoints").iterdir()
    (record,) = home.glob("evaluation/*.json")
    made = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    for place in (theirs, copy_of(checkpoint, tmp_path / "elsewhere")):
        again = call(*arguments, f"checkpoint={place}")
        assert again.returncode == 0 and f"record: {record}" in again.stdout, again.stderr
        assert "there already" in again.stderr and "image 8/64" not in again.stderr, again.stderr
    assert made == {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}, "computed once"
    assert before == {path: path.read_bytes() for path in (tmp_path / "theirs").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_images_are_written_when_asked_for_and_give_the_same(checkpoint: Path, straight: dict, tmp_path: Path) -> None:
    found = evaluate(copy_of(checkpoint, tmp_path), "sampler.fixed_batch=8", "job.images=true")
    (folder,) = (tmp_path / "samples").iterdir()
    assert (folder / "images.npz").exists()
    for key in ("fd_digits", "kid_digits", "precision", "recall", "accuracy"):
        assert found["metrics"][key] == pytest.approx(straight["metrics"][key], rel=1e-9)


@pytest.mark.slow
def test_two_processes_give_the_same_number(checkpoint: Path, straight: dict, tmp_path: Path) -> None:
    found = evaluate(copy_of(checkpoint, tmp_path), "sampler.fixed_batch=8", launcher=TORCHRUN)
    assert found["record"]["processes"] == 2
    for key in ("fd_digits", "kid_digits", "precision", "recall", "accuracy"):
        assert found["metrics"][key] == pytest.approx(straight["metrics"][key], rel=1e-9)


@pytest.mark.slow
def test_a_stopped_evaluation_continues(checkpoint: Path, tmp_path: Path) -> None:
    mine = copy_of(checkpoint, tmp_path)
    slow = ["sampler.fixed_batch=8", "solver.num_steps=60"]
    process = forked.Process("run.py", "job=evaluate", *of(mine), *SMALL, *slow)
    process.wait_until(lambda: "image 8/64" in process.err)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[1]
    assert process.returncode == 75 and "of 64 images are measured; the same command continues from there" in told, told
    assert not list((tmp_path / "evaluation").glob("*.json"))
    (part,) = tmp_path.glob("evaluation/.*.state/part_*.safetensors")
    assert part.stat().st_size > 1000
    done = call("job=evaluate", *of(mine), *SMALL, *slow)
    assert done.returncode == 0 and "of 64 images are measured; the others follow" in done.stderr, done.stderr
    (path,) = (tmp_path / "evaluation").iterdir()
    found = json.loads(path.read_text())
    assert 0 < found["record"]["images_timed"] < 64
    whole = evaluate(copy_of(checkpoint, tmp_path / "whole"), *slow)
    for key in ("fd_digits", "kid_digits", "precision", "recall", "accuracy", "num_samples"):
        assert found["metrics"][key] == pytest.approx(whole["metrics"][key], rel=1e-9)
