"""What a job of a real SLURM finds: the user's environment, the lines of the site, and the frozen code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pixelflow.runs.snapshot import take_snapshot
from pixelflow.sweeps import slurm
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.plan import plan
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import sweep_states
from pixelflow.sweeps.submission import submit
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.test_signals import SITE, Small
from tests.unit.sweeps.test_local import RECORDER

pytestmark = pytest.mark.slurm


@pytest.fixture
def frozen(tmp_path: Path, cluster: Cluster) -> Program:
    """A program whose code is a snapshot of a small checkout with the recorder as its entry."""
    small = Small(tmp_path)
    code = tmp_path / "checkout"
    shutil.copytree(small.folder / "code", code, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "recorder.py").write_text(RECORDER)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(code), *command], check=True)
    snapshot = take_snapshot(code, tmp_path / "runs" / ".code")
    return Program(entry="recorder", snapshot=snapshot, user_paths=[], python=sys.executable, cwd=str(tmp_path))


def give(program: Program, folder: Path, **site: Any) -> Sweep:
    sweep = Sweep(folder / "runs" / "sweep", "site", "0")
    run = SweepJob("r0", str(folder / "runs" / "r0"), "train", [], "0", 1)
    where = Site(**SITE | site)
    submit(sweep, plan([(run, {"job": {"name": "train"}})], where), where, program, launcher="slurm")
    wait_for(lambda: not sweep_states(sweep)[0].active, 90)
    return sweep


def test_the_users_modules_and_paths_reach_a_job(
    frozen: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`module` is a function of the user's shell, as environment modules define it."""
    monkeypatch.setenv("BASH_FUNC_module%%", '() {  export LOADEDMODULES="$LOADEDMODULES:$2"\n}')
    monkeypatch.setenv("LOADEDMODULES", "python/3.11")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "of the user"))
    setup = ["module load cuda/12", "export OF_SITE='a b'", f"export PYTHONPATH={tmp_path}/site:$PYTHONPATH"]
    sweep = give(frozen, tmp_path, setup=setup)
    (state,) = sweep_states(sweep)
    assert state.state == "finished", [path.read_text() for path in sweep.logs.iterdir()]
    found = json.loads((tmp_path / "runs" / "r0" / "rank-0").read_text())
    assert found["LOADEDMODULES"] == "python/3.11:cuda/12" and found["OF_SITE"] == "a b"
    assert found["path"][:3] == [frozen.snapshot.path, f"{tmp_path}/site", f"{tmp_path}/of the user"]
    assert found["cwd"] == str(tmp_path)


def test_a_job_names_the_frozen_files_that_are_missing(frozen: Program, tmp_path: Path) -> None:
    Path(frozen.snapshot.path, "pixelflow", "__init__.py").unlink()
    sweep = give(frozen, tmp_path)
    (state,) = sweep_states(sweep)
    (log,) = sweep.logs.iterdir()
    assert "has lost or changed pixelflow/__init__.py" in log.read_text()
    assert "repeat the sweep's own command" in log.read_text()
    assert state.state == "lost" and slurm.state_of(state.slurm) == "FAILED"
