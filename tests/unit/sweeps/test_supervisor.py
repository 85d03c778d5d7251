"""The process beside a task: what becomes of the task without it, and how it waits for the run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pixelflow.runs.status import held
from pixelflow.sweeps import supervisor
from pixelflow.sweeps.supervisor import Task, wait_for_lock
from tests.slurm.cluster import wait_for

ROOT = Path(__file__).resolve().parents[3]

SAVING = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda number, frame: (folder / "saved").touch() or sys.exit(75))
(folder / "aside").write_text(str(os.getpid()))
(folder / "aside").rename(folder / "pid")
while True:
    time.sleep(0.1)
"""
SUPERVISING = """
import sys
from pixelflow.sweeps.supervisor import Task
Task(()).run([sys.executable, *sys.argv[1:]], "/")
"""
HOLDING = """
import fcntl, sys
with open(sys.argv[1], "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_task_saves_and_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISING, "-c", SAVING, str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        wait_for(lambda: (tmp_path / "pid").exists(), 30)
        task = int((tmp_path / "pid").read_text())
        process.kill()
    try:
        wait_for(lambda: not Path(f"/proc/{task}").exists() or "Z" in state(task), 10)
        assert (tmp_path / "saved").exists()
    finally:
        if Path(f"/proc/{task}").exists() and "Z" not in state(task):
            os.kill(task, signal.SIGKILL)


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_job_that_is_started_again_waits_for_the_lock_of_its_last_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server of a network filesystem releases the lock of a lost node after more than a minute."""
    task = object.__new__(Task)  # without its signal handlers
    task.stopped = False
    clock = [0.0]
    quick = SimpleNamespace(
        monotonic=lambda: clock[0],
        sleep=lambda seconds: clock.__setitem__(0, clock[0] + 50 * seconds),
        strftime=time.strftime,
    )
    monkeypatch.setattr(supervisor, "time", quick)
    command = [sys.executable, "-c", HOLDING, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None and holder.stdout.readline() == "held\n"
        tried = []

        def try_to_hold(folder: Path) -> object:
            tried.append(clock[0])
            if clock[0] > 300 and holder.poll() is None:
                holder.kill()
                holder.wait()
            return held(folder)

        monkeypatch.setattr(supervisor, "held", try_to_hold)
        assert wait_for_lock(tmp_path, task)
    assert tried[-1] > 300
    assert capfd.readouterr().err.count("is in use by another process: waiting until it has ended") == 1


def test_the_wait_for_a_lock_ends_with_a_signal_or_after_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = object.__new__(Task)
    task.stopped = False
    with held(tmp_path) as ours:
        assert ours
        monkeypatch.setattr(supervisor, "LOCK_PATIENCE", 0.0)
        assert not wait_for_lock(tmp_path, task)
        monkeypatch.undo()
        threading.Timer(0.3, lambda: setattr(task, "stopped", True)).start()
        start = time.monotonic()
        assert wait_for_lock(tmp_path, task) and time.monotonic() - start < 60
