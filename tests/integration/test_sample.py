"""job=sample as a user calls it: killed, divided among processes, on a full disk, with damaged output."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["job=train", "tracking=none", "trainer.max_steps=2", "trainer.batch_size=8", "trainer.grid_every=0"]
SMALL = ["tracking=none", "solver.num_steps=2", "sampler.num_samples=64"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def call(
    *arguments: str, launcher: list[str] | None = None, limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    if launcher is None:
        return forked.call("run.py", *arguments, before=limit)
    command = [*launcher, str(ROOT / "run.py"), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = call(*TRAIN, f"runs_dir={runs}", "backbone.depth=2", "backbone.num_heads=2")
    assert done.returncode == 0, done.stderr
    (found,) = runs.glob("*/*/checkpoints/step_00000002")
    return found


def of(checkpoint: Path) -> list[str]:
    """The arguments by which a command works in the run of a checkpoint."""
    return [f"checkpoint={checkpoint}", f"runs_dir={checkpoint.parents[2]}"]


def copy_of(checkpoint: Path, folder: Path) -> Path:
    """Copies only the checkpoint to another run folder, which has no samples yet."""
    shutil.copytree(checkpoint, folder / "checkpoints" / checkpoint.name)
    shutil.copy(checkpoint.parents[1] / "config.yaml", folder)
    return folder / "checkpoints" / checkpoint.name


def sample(checkpoint: Path, *arguments: str, launcher: list[str] | None = None) -> Path:
    done = call("job=sample", *of(checkpoint), *SMALL, *arguments, launcher=launcher)
    assert done.returncode == 0, done.stderr
    (folder,) = (checkpoint.parent.parent / "samples").iterdir()
    return folder


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / "images.npz", allow_pickle=False) as archive:
        return archive["arr_0"], archive["arr_1"]


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples that one process makes without interruption, in fixed groups of 8."""
    return sample(copy_of(checkpoint, tmp_path_factory.mktemp("straight")), "sampler.fixed_batch=8")


def test_npz_record_and_grid(straight: Path) -> None:
    pixels, labels = arrays(straight)
    assert pixels.shape == (64, 16, 16, 3) and pixels.dtype == np.uint8
    assert labels.tolist() == [i % 10 for i in range(64)]
    assert sorted(p.name for p in straight.iterdir()) == [".lock", "grid.png", "images.npz", "record.json"]
    record = json.loads((straight / "record.json").read_text())
    assert record["num_samples"] == record["images_timed"] == 64 and record["processes"] == 1
    assert record["nfe"] == 4 and record["forward_passes_per_image"] == 6


@pytest.mark.slow
def test_two_processes_make_the_same_images(checkpoint: Path, straight: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    folder = sample(copy_of(checkpoint, tmp_path), "sampler.fixed_batch=8", launcher=torchrun)
    for ours, theirs in zip(arrays(folder), arrays(straight), strict=True):
        assert np.array_equal(ours, theirs)
    record = json.loads((folder / "record.json").read_text())
    assert record["processes"] == 2 and record["images_timed"] == 64


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])  # SIGTERM: tests/integration/test_evaluate.py
def test_a_stopped_job_continues(number: signal.Signals, checkpoint: Path, straight: Path, tmp_path: Path) -> None:
    mine = copy_of(checkpoint, tmp_path)
    # Many small steps: the job must still be at it when the first images are there.
    slow = ["sampler.fixed_batch=8", "solver.num_steps=40"]
    process = forked.Process("run.py", "job=sample", *of(mine), *SMALL, *slow)
    process.wait_until(lambda: len(list(tmp_path.glob("samples/*/images/*.png"))) >= 10)
    process.send_signal(number)
    assert process.wait() == (-9 if number is signal.SIGKILL else 130)
    (folder,) = tmp_path.glob("samples/*")
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "images").glob("*.png")}
    assert 10 <= len(kept) < 64, "it ended before it was stopped"
    damaged = sorted((folder / "images").glob("*.png"))[1]
    damaged.write_bytes(damaged.read_bytes()[:50])
    done = call("job=sample", *of(mine), *SMALL, *slow)
    assert done.returncode == 0, done.stderr
    assert f"{len(kept) - 1} of 64 images are there" in done.stderr
    assert json.loads((folder / "record.json").read_text())["images_timed"] == 64 - len(kept) + 1
    whole = sample(copy_of(checkpoint, tmp_path / "straight"), *slow)
    for ours, theirs in zip(arrays(folder), arrays(whole), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.slow
def test_png_folder_and_repair_of_a_damaged_one(checkpoint: Path, straight: Path, tmp_path: Path) -> None:
    mine = copy_of(checkpoint, tmp_path)
    settings = ["sampler.format=png", "sampler.fixed_batch=8", "sampler.trajectories=2"]
    folder = sample(mine, *settings)
    files = sorted((folder / "images").iterdir())
    assert [p.name for p in files] == [f"{i:08d}.png" for i in range(64)]
    assert {"stages.png", "filmstrip.png", "trajectory.gif"} <= {p.name for p in folder.iterdir()}
    before = {p.name: p.read_bytes() for p in files}
    times = {p.name: p.stat().st_mtime_ns for p in files}
    files[20].write_bytes(before[files[20].name][:-30])
    files[21].unlink()
    assert sample(mine, *settings) == folder  # the record is there, but two images are not
    assert {p.name: p.read_bytes() for p in files} == before
    changed = [p.name for p in files if p.stat().st_mtime_ns != times[p.name]]
    assert changed == [files[20].name, files[21].name]
    done = call(*of(mine), "job=evaluate", *SMALL, *settings)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_disk_that_fills_up(checkpoint: Path, straight: Path, tmp_path: Path) -> None:
    """A limit on the size of files simulates it: the images fit, the .npz of 50 kB does not."""
    mine = copy_of(checkpoint, tmp_path)
    arguments = ["job=sample", *of(mine), *SMALL, "sampler.fixed_batch=8"]
    done = call(*arguments, limit=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (40_000, 40_000)))
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) <= 4  # the checkpoint, and at most three
    assert "could not be written" in done.stderr and "64 of 64 are kept" in done.stderr
    (folder,) = tmp_path.glob("samples/*")
    assert not (folder / "record.json").exists() and not (folder / "images.npz").exists()
    assert call(*arguments).returncode == 0
    for ours, theirs in zip(arrays(folder), arrays(straight), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.slow
def test_shards_and_classes(checkpoint: Path, tmp_path: Path) -> None:
    mine = copy_of(checkpoint, tmp_path)
    settings = ["sampler.format=shards", "sampler.per_shard=30", "sampler.classes=3-5", "sampler.batch_size=[64,20]"]
    folder = sample(mine, *settings)
    assert sorted(p.name for p in folder.glob("*.tar")) == [f"shard_0000{i}.tar" for i in range(3)]
    done = call(*of(mine), "job=evaluate", *SMALL, *settings)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr


@pytest.mark.slow
def test_mistakes_are_reported_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    mine = copy_of(checkpoint, tmp_path)
    for setting, message in {
        "sampler.classes=3-12": "sampler.classes=3-12 must name classes in 0..9",
        "sampler.batch_size=[1,2,3]": "has 3 entries, but the cascade has 2 stages",
        "sampler.cuda_graphs=true": "needs a CUDA device",
    }.items():
        done = call("job=sample", *of(mine), setting)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "samples").exists()
