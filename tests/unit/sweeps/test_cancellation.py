"""job=cancel of a sweep of this machine whose launcher has ended, is another process now, or is elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pixelflow.errors import UserError
from pixelflow.files import locked, make_folder
from pixelflow.runs.status import read_status, write_status
from pixelflow.sweeps.cancellation import cancel_runs
from pixelflow.sweeps.claims import Claim, Launcher
from pixelflow.sweeps.manifest import Sweep, SweepJob, launcher_lock
from pixelflow.sweeps.states import sweep_states
from tests.slurm.cluster import wait_for

WAITING = "import time; time.sleep(600)"
HOLDING = """
import sys, time
from pathlib import Path
from pixelflow.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1]), {"experiment": "e", "seed": 0}):
    print(flush=True)
    time.sleep(600)
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep of two runs that wait."""
    sweep = Sweep(tmp_path / "sweep", "e", "d")
    for number in range(2):
        folder = tmp_path / f"run-{number}"
        sweep.jobs[folder.name] = SweepJob(folder.name, str(folder), "train", [], str(number), 9)
        write_status(folder, "queued")
    return sweep


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process."""
    with subprocess.Popen([sys.executable, "-c", WAITING]) as process:
        yield process
        process.kill()


def claimed(sweep: Sweep, launcher: Launcher) -> None:
    for job in sweep.jobs.values():
        Claim(str(sweep.folder), "t", "u", 1.0, launcher=launcher).save(job.path)


@pytest.fixture
def at_work(sweep: Sweep) -> Iterator[None]:
    """The launcher holds its lock."""
    make_folder(sweep.submission_folder("t"))
    with locked(launcher_lock(sweep.folder, "t")):
        yield


def launcher_of(process: subprocess.Popen[bytes]) -> Launcher:
    started = psutil.Process(process.pid).create_time()
    return replace(Launcher.this_process(), pid=process.pid, started=started)


@pytest.mark.usefixtures("at_work")
def test_the_launcher_is_asked_to_stop(sweep: Sweep, other: subprocess.Popen[bytes]) -> None:
    claimed(sweep, launcher_of(other))
    states = sweep_states(sweep)
    assert [state.state for state in states] == ["queued", "queued"] and f"process {other.pid} on" in states[0].message
    assert len(cancel_runs(sweep, ["run-1"])) == 1
    assert other.wait(20) == -signal.SIGTERM and read_status(sweep.jobs["run-1"].path).state == "cancelled"


def test_the_runs_of_a_launcher_that_has_ended_are_marked(
    sweep: Sweep, other: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    claimed(sweep, launcher_of(other))
    other.kill()
    other.wait()
    assert [state.state for state in sweep_states(sweep)] == ["lost", "lost"]
    assert len(cancel_runs(sweep, "all")) == 2
    assert "has ended; its runs are marked as cancelled" in capsys.readouterr().out
    assert [state.state for state in sweep_states(sweep)] == ["cancelled", "cancelled"]


def test_a_process_that_has_the_number_of_the_launcher_is_left_alone(
    sweep: Sweep, other: subprocess.Popen[bytes]
) -> None:
    launcher = launcher_of(other)
    claimed(sweep, replace(launcher, started=launcher.started - 86400))
    assert [state.state for state in cancel_runs(sweep, "all")] == ["lost", "lost"]
    assert other.poll() is None and psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE
    assert read_status(sweep.jobs["run-0"].path).state == "cancelled"


@pytest.mark.usefixtures("at_work")
def test_a_launcher_on_another_machine_is_named_and_nobody_is_signalled(
    sweep: Sweep, other: subprocess.Popen[bytes]
) -> None:
    claimed(sweep, replace(launcher_of(other), host="node17"))
    assert [state.state for state in sweep_states(sweep)] == ["queued", "queued"]
    with pytest.raises(UserError, match=rf"^2 runs belong to the launcher on node17 \(process {other.pid}\)"):
        cancel_runs(sweep, "all")
    assert other.poll() is None and read_status(sweep.jobs["run-0"].path).state == "queued"


def test_the_runs_of_a_lost_machine_are_due_again_and_can_be_cancelled(
    sweep: Sweep, other: subprocess.Popen[bytes]
) -> None:
    claimed(sweep, replace(launcher_of(other), host="node17"))
    assert [state.state for state in sweep_states(sweep)] == ["lost", "lost"]
    cancel_runs(sweep, "all")
    assert other.poll() is None and read_status(sweep.jobs["run-0"].path).state == "cancelled"


def test_the_launcher_of_another_user_is_named(
    sweep: Sweep, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    claimed(sweep, launcher_of(other))
    monkeypatch.setattr(psutil.Process, "terminate", refused)
    with pytest.raises(UserError, match=rf"^the launcher \(process {other.pid} on .*\) belongs to another user"):
        cancel_runs(sweep, "all")


def test_a_run_that_has_survived_its_launcher_is_stopped(sweep: Sweep, other: subprocess.Popen[bytes]) -> None:
    claimed(sweep, launcher_of(other))
    other.kill()
    other.wait()
    folder = sweep.jobs["run-0"].path
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE) as task:
        assert task.stdout is not None and task.stdout.readline() == b"\n"
        write_status(folder, "running", step=3)
        assert [state.state for state in cancel_runs(sweep, "all")] == ["running", "lost"]
        assert task.wait(20) == -signal.SIGTERM
    (folder / ".lock").write_text(f"{os.uname().nodename} {os.getpid()}\n")  # of a process that no longer holds it
    write_status(folder, "running")
    wait_for(lambda: sweep_states(sweep)[0].state == "lost", 10)
    cancel_runs(sweep, "all")
