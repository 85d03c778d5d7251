"""status.json: the one record of a run's state, and what becomes of a damaged one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixelflow.files import is_locked
from pixelflow.runs.folder import RunFolder
from pixelflow.runs.status import RunStatus, add_evaluation, current_status, held, read_status, write_status


def test_a_new_state_keeps_everything_but_the_message(tmp_path: Path) -> None:
    write_status(tmp_path, "running", "why", step=3, max_steps=9, job="pipeline", evaluations=("evaluation/a.json",))
    write_status(tmp_path, "failed", step=4)
    status = read_status(tmp_path)
    assert (status.state, status.message, status.step, status.max_steps) == ("failed", "", 4, 9)
    assert (status.job, status.evaluations) == ("pipeline", ("evaluation/a.json",))
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 4


def test_the_latest_evaluation_is_the_last_and_listed_once(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        write_status(tmp_path, "finished", **add_evaluation(tmp_path, name, borrowed=False))
    assert read_status(tmp_path).evaluations == ("b", "a")


def test_an_evaluation_that_was_made_for_another_experiment_becomes_the_runs_own_when_it_makes_it(
    tmp_path: Path,
) -> None:
    for name, borrowed in (("a", True), ("b", False), ("c", True)):
        write_status(tmp_path, "finished", **add_evaluation(tmp_path, name, borrowed=borrowed))
    assert (read_status(tmp_path).evaluations, read_status(tmp_path).borrowed) == (("a", "b", "c"), ("a", "c"))
    write_status(tmp_path, "finished", **add_evaluation(tmp_path, "a", borrowed=False))
    assert (read_status(tmp_path).evaluations, read_status(tmp_path).borrowed) == (("b", "c", "a"), ("c",))


@pytest.mark.parametrize(
    "text", [None, "", '{"state": "runn', "[]", '{"state": 3}', '{"state": "running", "step": "x"}']
)
def test_a_missing_or_damaged_status_is_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) == RunStatus()


def test_the_single_evaluation_of_earlier_versions_is_read(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "finished", "evaluation": "evaluation/x.json", "later": 1}')
    assert read_status(tmp_path).evaluations == ("evaluation/x.json",)


AT_WORK = """
import sys
from pathlib import Path
from pixelflow.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1]), {"experiment": "e", "seed": 0}) as folder:
    folder.set_status("running", step=3, max_steps=9, job="train")
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that works on the run in `tmp_path`."""
    command = [sys.executable, "-c", AT_WORK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        yield process
        process.kill()


def test_a_killed_run_is_stopped(at_work: subprocess.Popen[str], tmp_path: Path) -> None:
    assert current_status(tmp_path) == read_status(tmp_path) and read_status(tmp_path).state == "running"
    at_work.kill()
    at_work.wait()
    status = current_status(tmp_path)
    assert (status.state, status.message) == ("stopped", "its process was killed, step 3 of 9")
    assert read_status(tmp_path).state == "running"  # looking changes nothing
    with RunFolder(tmp_path, {"experiment": "e", "seed": 0}):  # a resumed run, before it writes its status
        assert current_status(tmp_path).state == "running"


def test_a_run_of_another_host_is_not_declared_stopped(tmp_path: Path) -> None:
    """Some network filesystems do not share locks between hosts."""
    write_status(tmp_path, "running", step=3, max_steps=9)
    (tmp_path / ".lock").write_text("node17 4711\n")
    before = time.time() - 12 * 60
    os.utime(tmp_path / "status.json", (before, before))
    status = current_status(tmp_path)
    assert status.state == "running"
    assert status.message == "on node17 (last sign of life 12 min ago), step 3 of 9"
    before -= 3 * 86400
    os.utime(tmp_path / "status.json", (before, before))
    assert "3 days ago" in current_status(tmp_path).message
    (tmp_path / "log.txt").touch()
    assert "0 min ago" in current_status(tmp_path).message
    (tmp_path / ".lock").write_text(f"{socket.gethostname()} 4711\n")
    assert current_status(tmp_path).state == "stopped"


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted", "cancelled", "queued"])
def test_other_states_are_as_recorded(tmp_path: Path, state: str) -> None:
    write_status(tmp_path, state, "why", step=3)
    assert current_status(tmp_path) == read_status(tmp_path)


def test_looking_at_a_lock_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    assert is_locked(tmp_path / ".lock") is False
    with held(tmp_path) as ours:
        assert ours and is_locked(tmp_path / ".lock") is True
    watcher = "import sys\nfrom pathlib import Path\nfrom pixelflow.files import is_locked\nprint(flush=True)\n"
    watcher += "while True: is_locked(Path(sys.argv[1]))"
    command = [sys.executable, "-c", watcher, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        taken = 0
        for _ in range(300):
            with held(tmp_path) as ours:
                taken += ours
        process.kill()
    assert taken == 300
