"""What SLURM's commands print, and what becomes of it; scripts stand for the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pixelflow.errors import UserError, WorkFailed
from pixelflow.sweeps import slurm
from pixelflow.sweeps.slurm import QueueEntry


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script of that name before all others."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)

    def put(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return put


def test_the_queue(command: Callable[[str, str], None]) -> None:
    lines = "12_0|RUNNING|None|n1|9:58\\n12_1|PENDING|Resources||10:00\\n13|COMPLETED|None|n2|9:00"
    command("squeue", f'printf "{lines}\\n"')
    entries = slurm.queue({"me"})
    assert entries["12_0"] == QueueEntry("RUNNING", "", "n1", "9:58") and entries["12_1"].reason == "Resources"
    assert [entry.active for entry in entries.values()] == [True, True, False]


def test_what_the_queue_has_forgotten_accounting_may_know(command: Callable[[str, str], None]) -> None:
    command("squeue", "true")
    command("sacct", 'echo "7|CANCELLED by 1000|n1"; echo "8_2|NODE_FAIL|n2"')
    entries = slurm.queue({"me"}, ["7", "8_2"])
    assert {job: entry.state for job, entry in entries.items()} == {"7": "CANCELLED", "8_2": "NODE_FAIL"}
    command("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    assert slurm.queue({"me"}, ["7"]) == {}


def test_a_busy_controller_gets_another_chance(command: Callable[[str, str], None], tmp_path: Path) -> None:
    once = (
        f'[ -e {tmp_path}/x ] || {{ touch {tmp_path}/x; echo "slurm_load_jobs error: Socket timed out" >&2; exit 1; }}'
    )
    command("squeue", f'{once}\necho "1|RUNNING|None|n1|1:00"')
    assert list(slurm.queue({"me"})) == ["1"]


def test_a_short_outage_does_not_end_a_job(command: Callable[[str, str], None], tmp_path: Path) -> None:
    """An interrupted job is queued again if SLURM still runs it; no answer does not tell that it is gone."""
    down = 'echo "squeue: error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    command(
        "squeue", f"echo x >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) -gt 6 ] && echo RUNNING && exit; {down}"
    )
    assert slurm.state_of("7") == "RUNNING"
    command("squeue", down)
    assert slurm.state_of("7") == "UNKNOWN"
    command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert slurm.state_of("7") == ""


def test_only_an_invalid_id_tells_that_a_job_is_gone(command: Callable[[str, str], None]) -> None:
    command("squeue", 'echo "slurm_load_jobs error: Something new" >&2; exit 1')
    assert slurm.state_of("7") == "UNKNOWN"


def test_the_patience_is_four_minutes_and_ends_with_an_attempt(
    command: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[float] = []
    monkeypatch.setattr(slurm.time, "sleep", events.append)
    command("squeue", f'echo x >> {tmp_path}/asked; echo "slurm_load_jobs error: backup in standby mode" >&2; exit 1')
    assert slurm.state_of("7") == "UNKNOWN"
    pauses = [seconds for seconds in events if seconds >= 1]  # without those of subprocess
    assert sum(pauses) >= 240 and len((tmp_path / "asked").read_text().split()) == len(pauses) + 1


def test_the_jobs_of_a_submission_are_found_by_their_scripts(command: Callable[[str, str], None]) -> None:
    command(
        "squeue",
        'printf "12|/a b/submission/x.sh\\n12|/a b/submission/x.sh\\n13|/a b/submission-2/x.sh\\n14|(null)\\n"',
    )
    assert slurm.jobs_from(Path("/a b/submission")) == ["12"]
    command("squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(WorkFailed, match=r"^squeue: Unable to contact slurm controller; repeat the command"):
        slurm.jobs_from(Path("/a b/submission"))


def test_a_user_without_a_name_is_a_number(
    command: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm.os, "geteuid", lambda: 4_000_000)
    command("squeue", 'while [ "$1" != -u ]; do shift; done; echo "$2|/a/x.sh"')
    assert slurm.jobs_from(Path("/a")) == ["4000000"]


def test_the_array_limit(command: Callable[[str, str], None]) -> None:
    command("scontrol", 'echo "MaxArraySize            = 1001"')
    assert slurm.array_limit() == 1000


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch on this machine: submit from a login node"):
        slurm.require_slurm()
