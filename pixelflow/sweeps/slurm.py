"""SLURM's commands as functions, with errors of one line."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pixelflow.errors import UserError, WorkFailed

ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING",
          "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED")  # fmt: skip
"""States of a job that may still do something."""
PATIENT = 9
"""Attempts that last for four minutes, such as a restart of the controller takes."""
BUSY = (
    r"Unable to (contact|establish)|Socket timed out|no answer|try again|Zero Bytes|Munge|standby|"
    r"authentication|Connection (refused|reset|timed out)|configuration source|not connected|temporarily"
)
"""What SLURM's commands report while the controller is busy, restarting or away."""


class NoAnswer(WorkFailed):
    """SLURM does not answer, so that the states of jobs are unknown. Its jobs continue."""


@dataclass(frozen=True)
class QueueEntry:
    """SLURM's record of a job: its state, why it waits, where it runs, and the time left as squeue prints it."""

    state: str
    reason: str = ""
    node: str = ""
    time_left: str = ""

    @property
    def active(self) -> bool:
        """True while the job may still do something."""
        return self.state in ACTIVE


def require_slurm() -> None:
    """Checks that SLURM's commands are on this machine.

    Raises:
        UserError: One of them is missing.
    """
    for command in ("sbatch", "squeue", "scontrol", "scancel"):
        if shutil.which(command) is None:
            raise UserError(
                f"there is no {command} on this machine: submit from a login node of the cluster, "
                "or use hydra/launcher=submitit_local"
            )


def user_name() -> str:
    """Returns the name of this process's user as SLURM has it. LOGNAME may be another one, as it is after `su`."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container without the site's users; SLURM's commands take numbers as well
        return str(os.geteuid())


def queue(users: Iterable[str], ids: Iterable[str] = ()) -> dict[str, QueueEntry]:
    """Returns the jobs of `users` by id: `"12"`, or `"12_3"` for a task of an array.

    Args:
        users: The users. Their finished jobs are included as long as SLURM remembers them.
        ids: Jobs that are looked up in the accounting, where there is one, if squeue does not list them.

    Raises:
        WorkFailed: SLURM does not answer.
    """
    text = _run(["squeue", "-a", "-r", "-h", "-t", "all", "-u", ",".join(sorted(set(users))), "-o", "%i|%T|%r|%N|%L"])
    entries = {}
    for line in text.splitlines():
        job, state, reason, node, left = (line.strip().split("|") + [""] * 5)[:5]
        entries[job] = QueueEntry(state, "" if reason == "None" else reason, node, left)
    missing = [job for job in ids if job not in entries]
    return entries | accounting(missing) if missing else entries


def jobs_from(folder: Path) -> list[str]:
    """Returns the ids of this user's unfinished jobs whose batch scripts lie in `folder`, one per array.

    Raises:
        WorkFailed: SLURM does not answer.
    """
    lines = _run(["squeue", "-a", "-h", "-u", user_name(), "-o", "%F|%o"]).splitlines()
    pairs = [line.strip().partition("|") for line in lines]
    return sorted({job for job, _, script in pairs if Path(script).is_relative_to(folder)})


def accounting(ids: Iterable[str]) -> dict[str, QueueEntry]:
    """Returns the entries of jobs in SLURM's accounting; empty where there is none."""
    try:
        text = _run(["sacct", "-n", "-P", "-X", "-j", ",".join(ids), "-o", "JobID,State,NodeList"], attempts=1)
    except (UserError, WorkFailed):
        return {}
    entries = {}
    for line in text.splitlines():
        job, state, node = (line.split("|") + [""] * 3)[:3]
        if state:
            entries[job] = QueueEntry(state.split()[0], "", node)  # "CANCELLED by 1000"
    return entries


def state_of(job: str) -> str:
    """Returns the state of one job: empty where SLURM has no record of it, UNKNOWN where it does not answer."""
    command = ["squeue", "-a", "-r", "-h", "-t", "all", "-j", job, "-o", "%T"]
    try:
        return _run(command, attempts=PATIENT).strip().split("\n")[0]
    except (UserError, WorkFailed) as error:
        return "" if "Invalid job id" in str(error) else "UNKNOWN"


def requeue(job: str) -> None:
    """Ends a job and queues it again under the same id.

    Raises:
        UserError: SLURM refuses.
        WorkFailed: SLURM does not answer.
    """
    _run(["scontrol", "requeue", job], attempts=PATIENT)


def cancel(jobs: Iterable[str]) -> None:
    """Cancels jobs.

    Raises:
        UserError: SLURM refuses, for example because the jobs belong to another user.
        WorkFailed: SLURM does not answer.
    """
    names = list(jobs)
    for start in range(0, len(names), 200):  # the length of a command line is limited
        _run(["scancel", *names[start : start + 200]])


def array_limit() -> int | None:
    """Returns the largest array that this SLURM accepts; None where its configuration does not say."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]))
    return int(found[1]) - 1 if found else None


def _run(command: list[str], *, attempts: int = 3) -> str:
    """Returns what the command prints. It is repeated while the controller is busy or restarting."""
    for attempt in range(attempts):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            raise UserError(f"there is no {command[0]} on this machine") from None
        except subprocess.TimeoutExpired:
            message = "no answer within 60 s"
        else:
            if done.returncode == 0:
                return done.stdout
            message = last_line(done.stderr) or f"exit status {done.returncode}"
        passing = re.search(BUSY, message, re.IGNORECASE)
        if not passing:
            break
        if attempt + 1 < attempts:
            time.sleep(2**attempt)
    text = f"{command[0]}: {message}"
    raise NoAnswer(f"{text}; repeat the command when SLURM answers") if passing else UserError(text)


def last_line(errors: str) -> str:
    """Returns the last line that a command reported, without the command's name; empty where there is none."""
    lines = [line for line in errors.splitlines() if line.strip()]
    return re.sub(r"^([a-z_]+: )?([a-z_]* ?error: )?", "", lines[-1]) if lines else ""
