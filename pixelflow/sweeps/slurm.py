"""SLURM's commands, with errors of one line."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING",
          "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED")  # fmt: skip
"""States of a job that may still do something."""


@dataclass(frozen=True)
class QueueEntry:
    """What SLURM says of a job: its state, why it waits, where it runs, time left as squeue prints it."""

    state: str
    reason: str = ""
    node: str = ""
    time_left: str = ""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


class SlurmError(ValueError):
    """SLURM refused, or does not answer; the message is its own."""


def require_slurm() -> None:
    for command in ("sbatch", "squeue", "scontrol", "scancel"):
        if shutil.which(command) is None:
            raise SlurmError(
                f"there is no {command} on this machine: submit from a login node of the cluster, "
                "or use hydra/launcher=local"
            )


def submit(script: Path, *, dependency: str | None = None) -> str:
    """The job's number. Raises SlurmError with sbatch's complaint."""
    # A job that waits for what can no longer happen would wait for ever.
    after = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
    output = _run(["sbatch", "--parsable", *after, str(script)])
    return output.strip().split(";")[0]


def queue(users: Iterable[str], ids: Iterable[str] = ()) -> dict[str, QueueEntry]:
    """Jobs of `users` by id, "12" or "12_3" for a task of an array, finished ones too while SLURM remembers them.

    ids: where there is accounting, what squeue has forgotten of these is asked there.
    """
    text = _run(["squeue", "-a", "-r", "-h", "-t", "all", "-u", ",".join(sorted(set(users))), "-o", "%i|%T|%r|%N|%L"])
    entries = {}
    for line in text.splitlines():
        job, state, reason, node, left = (line.strip().split("|") + [""] * 5)[:5]
        entries[job] = QueueEntry(state, "" if reason == "None" else reason, node, left)
    missing = [job for job in ids if job not in entries]
    return entries | accounting(missing) if missing else entries


def accounting(ids: Iterable[str]) -> dict[str, QueueEntry]:
    """What sacct knows of jobs; nothing where there is no accounting."""
    try:
        text = _run(["sacct", "-n", "-P", "-X", "-j", ",".join(ids), "-o", "JobID,State,NodeList"], attempts=1)
    except SlurmError:
        return {}
    entries = {}
    for line in text.splitlines():
        job, state, node = (line.split("|") + [""] * 3)[:3]
        if state:
            entries[job] = QueueEntry(state.split()[0], "", node)  # "CANCELLED by 1000"
    return entries


def state_of(job: str) -> str:
    """The state of one job; "" where SLURM does not know it."""
    try:
        return _run(["squeue", "-a", "-r", "-h", "-t", "all", "-j", job, "-o", "%T"]).strip().split("\n")[0]
    except SlurmError:
        return ""


def requeue(job: str) -> None:
    _run(["scontrol", "requeue", job])


def cancel(jobs: Iterable[str]) -> None:
    names = list(jobs)
    for start in range(0, len(names), 200):  # a command line has its limits
        _run(["scancel", *names[start : start + 200]])


def array_limit() -> int | None:
    """The largest array that SLURM takes here."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]))
    return int(found[1]) - 1 if found else None


def _run(command: list[str], *, attempts: int = 3) -> str:
    """stdout. A controller that is busy or restarting gets a second and a third chance, except for sbatch, of which
    nobody knows whether a request that timed out was carried out."""
    once = command[0] == "sbatch"
    for attempt in range(attempts):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            raise SlurmError(f"there is no {command[0]} on this machine") from None
        except subprocess.TimeoutExpired:
            message = "no answer within 60 s"
        else:
            if done.returncode == 0:
                return done.stdout
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            message = lines[-1] if lines else f"exit status {done.returncode}"
        passing = re.search(r"Unable to contact|Socket timed out|no answer|try again", message, re.IGNORECASE)
        if once or not passing:
            break
        time.sleep(2**attempt)
    raise SlurmError(f"{command[0]}: {re.sub(r'^[a-z]+: (error: )?', '', message)}")
