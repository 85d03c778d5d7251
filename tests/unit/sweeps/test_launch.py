"""`launch`, with scripts in place of SLURM's commands and a small checkout in place of the project."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.runs.status import write_status
from pixelflow.sweeps import launch as launching
from pixelflow.sweeps.launch import launch
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.requests import RunRequest, SweepRequest
from pixelflow.sweeps.resubmission import retry_runs
from pixelflow.sweeps.site import Site
from tests.unit.sweeps.test_submission import FakeSlurm, fake  # noqa: F401


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSlurm) -> SweepRequest:  # noqa: F811
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "a.py").write_text("x = 1\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(launching, "ROOT", root)
    fake.put("scontrol", "true")
    return SweepRequest(
        experiment="e", runs_dir=tmp_path / "runs", folder=None, axes=[], paper=[], site=Site(), launcher="slurm",
        entry="the.entry", dry_run=False, wait=False, search=None, mlflow_uri=None,
    )  # fmt: skip


def tasks(count: int) -> list[RunRequest]:
    """Jobs without a run folder of their own."""
    return [
        RunRequest(config={"seed": n, "job": {"name": "sample"}}, overrides=[f"seed={n}"], job="sample",
                   makes_run=False, digest=f"{n}", evaluation=None, task_digest=f"{n}", max_steps=0)
        for n in range(count)
    ]  # fmt: skip


def test_the_code_is_frozen_in_runs_dir_wherever_the_sweep_lies(request_: SweepRequest, tmp_path: Path) -> None:
    """Not beside the sweep: the folder above a sweep of the user's choice can be any, such as /tmp."""
    sweep = tmp_path / "elsewhere" / "sweep"
    launch(replace(request_, folder=sweep), tasks(1))
    code = Path(Sweep.load(sweep).submissions[0].snapshot)
    assert code.parent == tmp_path / "runs" / ".code" and (code / "a.py").read_text() == "x = 1\n"
    assert [path.name for path in sweep.parent.iterdir()] == ["sweep"]


def test_the_budget_of_a_repeated_command_counts_what_is_left(request_: SweepRequest, fake: FakeSlurm) -> None:  # noqa: F811
    site = Site(gpus_per_node=2, timeout_min=60)
    launch(replace(request_, site=site), tasks(3))
    (folder,) = request_.experiment_folder.glob("sweep-*")
    for number, job in enumerate(Sweep.load(folder).jobs.values()):
        write_status(job.path, "finished" if number else "failed", "x", job="sample")
        fake.states[f"101_{number}"] = "COMPLETED"
    with pytest.raises(UserError, match=r"^the due runs \(1\) may use 2\.0 GPU hours, more than site\.max_gpu_hours=1"):
        launch(replace(request_, site=replace(site, max_gpu_hours=1)), tasks(3))
    assert len(fake.scripts) == 1
    launch(replace(request_, site=replace(site, max_gpu_hours=2)), tasks(3))
    assert len(fake.scripts) == 2


def test_frozen_code_that_was_removed_is_copied_again_by_the_sweeps_command(
    request_: SweepRequest,
    fake: FakeSlurm,  # noqa: F811
) -> None:
    launch(request_, tasks(1))
    (folder,) = request_.experiment_folder.glob("sweep-*")
    sweep = Sweep.load(folder)
    (job,) = sweep.jobs.values()
    write_status(job.path, "failed", "x", job="sample")
    fake.states["101"] = "FAILED"
    shutil.rmtree(sweep.submissions[0].snapshot)
    with pytest.raises(UserError, match=r"has lost or changed 1 files .*: repeat the sweep's own command"):
        retry_runs(sweep, "failed", {})
    assert len(fake.scripts) == 1
    launch(request_, tasks(1))
    assert Path(sweep.submissions[0].snapshot, "a.py").exists() and len(fake.scripts) == 2
