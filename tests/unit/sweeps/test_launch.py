"""`launch`, with scripts in place of SLURM's commands and a small checkout in place of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pixelflow.config.job import NoOptions
from pixelflow.errors import UserError
from pixelflow.jobs import status
from pixelflow.reporting.presentation import Presentation
from pixelflow.runs.status import write_status
from pixelflow.sweeps import arrays, manifest
from pixelflow.sweeps import launch as launching
from pixelflow.sweeps.batch import frozen_jobs
from pixelflow.sweeps.launch import launch
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.requests import RunRequest, SweepRequest
from pixelflow.sweeps.resubmission import retry_runs
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import sweep_states
from tests.unit.sweeps.fake_slurm import FakeSlurm


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeSlurm) -> SweepRequest:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "a.py").write_text("x = 1\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(launching, "ROOT", root)
    fake.put("scontrol", "true")
    return SweepRequest(
        experiment="e", runs_dir=tmp_path / "runs", folder=None, presentation=Presentation(), site=Site(),
        launcher="slurm", entry="the.entry", dry_run=False, wait=False, search=None, mlflow_uri=None,
    )  # fmt: skip


def tasks(count: int) -> list[RunRequest]:
    """Jobs without a run folder of their own."""
    return [
        RunRequest(config={"seed": n, "job": {"name": "sample"}}, overrides=[f"seed={n}"], job="sample",
                   makes_run=False, digest=f"{n}", evaluation=None, task_digest=f"{n}", max_steps=0)
        for n in range(count)
    ]  # fmt: skip


def arms(runs_dir: Path, *num_steps: int, seed: int = 0, **more: object) -> list[RunRequest]:
    """Pipelines with equal weights, of arm files that have a name each."""
    config = {
        "experiment": "e", "runs_dir": str(runs_dir), "run_folder": None, "rerun": False, "seed": seed,
        "tracking": {"mlflow": False, "uri": None}, "job": {"name": "pipeline"}, **more,
    }  # fmt: skip
    return [
        RunRequest(config=config | {"solver": {"num_steps": n}}, overrides=[f"experiments/e@_global_=arm_{n}"],
                   job="pipeline", makes_run=True, digest=f"{seed}-{n}", evaluation=f"evaluation/{n}.json",
                   task_digest="", max_steps=9)
        for n in num_steps
    ]  # fmt: skip


def test_arms_with_equal_weights_are_one_run_in_the_folder_of_the_first(
    request_: SweepRequest,
    fake: FakeSlurm,
) -> None:
    """Their overrides, which name folders, differ in the name of the arm."""
    runs = request_.runs_dir
    launch(request_, [*arms(runs, 2, 3), *arms(runs, 2, seed=1)])
    (folder,) = request_.experiment_folder.glob("sweep-*")
    first, other = Sweep.load(folder).jobs.values()
    assert first.evaluations == ["evaluation/2.json", "evaluation/3.json"] and first.name.startswith("e-arm_2-")
    assert [config["solver"] for _, config in frozen_jobs(Sweep.load(folder), [first.name])] == [
        {"num_steps": 2}, {"num_steps": 3},
    ]  # fmt: skip
    assert other.evaluations == ["evaluation/2.json"] and other.folder != first.folder
    assert "--array=0-1" in fake.scripts[0]


def test_the_code_is_frozen_in_runs_dir_wherever_the_sweep_lies(request_: SweepRequest, tmp_path: Path) -> None:
    """Not beside the sweep: the folder above a sweep of the user's choice can be any, such as /tmp."""
    sweep = tmp_path / "elsewhere" / "sweep"
    launch(replace(request_, folder=sweep), tasks(1))
    code = Path(Sweep.load(sweep).submissions[0].snapshot)
    assert code.parent == tmp_path / "runs" / ".code" and (code / "a.py").read_text() == "x = 1\n"
    assert [path.name for path in sweep.parent.iterdir()] == ["sweep"]


def test_the_budget_of_a_repeated_command_counts_what_is_left(request_: SweepRequest, fake: FakeSlurm) -> None:
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
    fake: FakeSlurm,
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


@pytest.fixture
def failed(request_: SweepRequest, fake: FakeSlurm) -> Path:
    """The folder of a sweep whose two runs have failed."""
    launch(request_, tasks(2))
    (folder,) = request_.experiment_folder.glob("sweep-*")
    for number, job in enumerate(Sweep.load(folder).jobs.values()):
        write_status(job.path, "failed", "x", job="sample")
        fake.states[f"101_{number}"] = "FAILED"
    return folder


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("first", [True, False])
def test_the_status_during_a_submission_tells_of_it_and_writes_nothing(
    first: bool,
    request_: SweepRequest,
    fake: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The runs are claimed and listed, and SLURM has not numbered their jobs."""
    if not first:
        launch(request_, tasks(2))
        (folder,) = request_.experiment_folder.glob("sweep-*")
        for number, job in enumerate(Sweep.load(folder).jobs.values()):
            write_status(job.path, "running" if number else "interrupted", job="sample")
            fake.states[f"101_{number}"] = "COMPLETED"
    submit_part, shown = arrays.submit_part, []

    def look(sweep: Sweep, part: list[Path], previous: str | None) -> str:
        before = content(sweep.folder)
        capsys.readouterr()
        status.run({"sweep": str(sweep.folder), "watch": False}, NoOptions(), [])
        shown.append(capsys.readouterr().out)
        assert content(sweep.folder) == before
        return submit_part(sweep, part, previous)

    monkeypatch.setattr(arrays, "submit_part", look)
    launch(request_, tasks(2))
    assert "2 queued of 2" in shown[0] and shown[0].count("is being submitted") == 2
    (folder,) = request_.experiment_folder.glob("sweep-*")
    assert all(state.slurm for state in sweep_states(Sweep.load(folder)))


def test_a_submission_that_was_killed_is_not_under_way(request_: SweepRequest, fake: FakeSlurm) -> None:
    """The same command submits its runs, and looking at them changes nothing."""
    child = os.fork()
    if child == 0:
        arrays.submit_part = lambda *_: os._exit(9)
        launch(request_, tasks(2))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (folder,) = request_.experiment_folder.glob("sweep-*")
    before = content(folder)
    states = sweep_states(Sweep.load(folder))
    assert [(state.state, state.message) for state in states] == [("lost", "it left the queue")] * 2
    with pytest.raises(SystemExit):
        status.run({"sweep": str(folder), "watch": False}, NoOptions(), [])
    assert content(folder) == before
    retry_runs(Sweep.load(folder), "failed", {})
    assert "--array=0-1" in fake.scripts[0]


def test_a_command_that_was_killed_before_it_submitted_can_be_repeated(
    request_: SweepRequest,
    fake: FakeSlurm,
) -> None:
    """It had claimed its runs, and asked MLflow."""
    child = os.fork()
    if child == 0:
        launching._announce = lambda *_: os._exit(9)
        launch(request_, tasks(2))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    launch(request_, tasks(2))
    assert "--array=0-1" in fake.scripts[0]


def test_a_run_whose_folder_was_deleted_is_retried(failed: Path, fake: FakeSlurm) -> None:
    job, *_ = Sweep.load(failed).jobs.values()
    shutil.rmtree(job.path)
    retry_runs(Sweep.load(failed), "failed", {})
    assert "--array=0-1" in fake.scripts[-1]


def test_a_retry_after_a_submission_that_was_refused(failed: Path, request_: SweepRequest, fake: FakeSlurm) -> None:
    fake.refuse(2)
    with pytest.raises(UserError, match=r"SLURM jobs 102\) was cancelled$"):
        launch(replace(request_, site=Site(max_array_size=1)), tasks(2))
    fake.refuse(None)
    retry_runs(Sweep.load(failed), "failed", {})
    assert "--array=0-1" in fake.scripts[-1]


def test_a_retry_uses_the_newest_submission_that_has_frozen_jobs(failed: Path, fake: FakeSlurm) -> None:
    """A crash can leave one without, as can a disk that was full while it was removed."""
    sweep = Sweep.load(failed)
    sweep.add(replace(sweep.submissions[0], token="99999999-000000-0000", time=9e9), [])
    retry_runs(Sweep.load(failed), "failed", {})
    assert "--array=0-1" in fake.scripts[-1]
    for file in failed.glob("submissions/*/batch_0.json"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no frozen jobs: repeat the sweep's own command"):
        retry_runs(Sweep.load(failed), "failed", {})


def test_every_submission_of_an_experiment_takes_the_same_lock(
    request_: SweepRequest,
    fake: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also that of a retry of a sweep in a folder of the user's choice."""
    taken, locked = [], manifest.locked

    def noted(path: Path, **options: bool) -> object:
        taken.append(path)
        return locked(path, **options)

    monkeypatch.setattr(manifest, "locked", noted)
    folder = tmp_path / "elsewhere" / "sweep"
    launch(replace(request_, folder=folder), tasks(1))
    (job,) = Sweep.load(folder).jobs.values()
    write_status(job.path, "failed", "x", job="sample")
    fake.states["101"] = "FAILED"
    retry_runs(Sweep.load(folder), "failed", {})
    assert taken == [request_.experiment_folder / ".submit.lock"] * 2


def test_a_folder_of_runs_can_be_moved_with_its_sweeps(failed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    failed.parent.rename(moved)
    assert Sweep.load(moved / failed.name).lock_file == moved / ".submit.lock"
