"""A user's own package and folder of configs work in every job, without a change of this repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # every test starts processes that import torch

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["trainer.device=cpu", "trainer.batch_size=8", "sampler.num_samples=20", "tracking=none"]
CHOSEN = ["backbone=convnet", "guidance=rising", "trust=[mylib]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "tests" / "outside" / "mylib", folder / "code" / "mylib")
    shutil.copytree(ROOT / "tests" / "outside" / "conf", folder / "conf")
    return folder


def call(home: Path, *arguments: str, entry: str = "run.py") -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(home / "code"), str(ROOT)])
    command = [sys.executable, str(ROOT / entry), "--config-dir", str(home / "conf"), *arguments]
    return subprocess.run(
        command,
        cwd=home,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    done = call(home, *CHOSEN, "trainer.max_steps=2", *SMALL)
    assert done.returncode == 0, done.stderr
    (run,) = (home / "runs" / "quickstart").glob("*-*")
    return run


def test_pipeline_records_the_package(trained: Path) -> None:
    assert json.loads((trained / "status.json").read_text())["state"] == "finished"
    modules = json.loads((trained / "provenance.json").read_text())["modules"]
    assert "mylib" in " ".join(modules)


def test_sample_and_evaluate(home: Path, trained: Path) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints' / 'step_00000002'}"
    done = call(
        home,
        "job=sample",
        checkpoint,
        *SMALL[:1],
        "sampler.num_samples=4",
        "guidance=rising",
        "guidance.most=3",
        "trust=[mylib]",
    )
    assert done.returncode == 0, done.stderr
    done = call(home, checkpoint, *SMALL[:1], "sampler.num_samples=20", "trust=[mylib]", entry="evaluate.py")
    assert done.returncode == 0, done.stderr


def test_hints_know_her_options(home: Path) -> None:
    done = call(home, "backbone=convnets")
    assert done.returncode == 2 and "convnet, " in done.stderr
    done = call(home, *CHOSEN, "guidance.mots=2")
    assert done.returncode == 2 and "did you mean guidance.most?" in done.stderr
    done = call(home, *CHOSEN, "guidance.most=0.5", *SMALL)
    assert done.returncode == 2 and done.stderr.endswith("error: guidance.most=0.5 must be at least 1\n")


def test_local_sweep(home: Path) -> None:
    done = call(home, *CHOSEN, "seed=1,2", "hydra/launcher=local", "trainer.max_steps=1", "experiment=two", *SMALL)
    assert done.returncode == 0, done.stderr
    states = [json.loads(p.read_text())["state"] for p in (home / "runs" / "two").glob("*/status.json")]
    assert states == ["finished", "finished"]
