"""The state of a run: `status.json` in its folder, and the lock that a process holds while it works there."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import psutil

from pixelflow.files import InUse, is_locked, locked, write_json

STATUS_FILE = "status.json"
LOCK_FILE = ".lock"
LOCK_PATIENCE = 600.0
"""Seconds for which a job of a sweep waits for a folder in use: the locks of a lost node remain for minutes."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run as its folder records it.

    Args:
        state: queued, starting, running, finished, failed, interrupted or cancelled; None where it is unknown. `stopped`
            is never recorded: it stands for `running` where that process no longer exists, see `current_status`.
        message: Why the run is in this state; one line, or empty.
        step: Training steps done.
        max_steps: Training steps of the whole run.
        job: The job that set the state: train, pipeline, or another one of a sweep.
        evaluations: Evaluations that the pipeline made of this run, as paths in the run folder, the latest last. Others
            in `evaluation/` were made by hand and do not belong to a table.
        borrowed: Those of `evaluations` that were made for experiments with `runs_of` only. Tables of the run's own
            experiment leave them out; see `pixelflow.runs.sharing`.
        updated: Unix seconds.
    """

    state: str | None = None
    message: str = ""
    step: int | None = None
    max_steps: int | None = None
    job: str | None = None
    evaluations: tuple[str, ...] = ()
    borrowed: tuple[str, ...] = ()
    updated: float = 0.0

    @staticmethod
    def parse(content: Mapping[str, Any]) -> RunStatus:
        """Returns the status of a decoded status.json; keys that it does not name are ignored.

        Raises:
            ValueError: A value has the wrong type.
        """
        known: dict[str, Any] = {
            key: content[key] for key in (field.name for field in fields(RunStatus)) if key in content
        }
        if isinstance(name := content.get("evaluation"), str):  # the key of earlier versions, for a single evaluation
            known.setdefault("evaluations", [name])
        if not all(isinstance(known.get(key, ""), str) for key in ("state", "message", "job")):
            raise ValueError("state, message and job must be text")
        try:
            known |= {key: int(known[key]) for key in ("step", "max_steps") if key in known}
            for key in ("evaluations", "borrowed"):
                known[key] = tuple(str(entry) for entry in known.get(key, ()))
            return RunStatus(**known)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def text(self) -> dict[str, Any]:
        """Returns the content of status.json: what is known, and always state, message and updated."""
        always = ("state", "message", "updated")
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in content.items() if key in always or value not in (None, ())}


def read_status(folder: Path) -> RunStatus:
    """Returns the status of a run folder; an unknown one where status.json is missing or damaged."""
    try:
        content = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
        return RunStatus.parse(content) if isinstance(content, dict) else RunStatus()
    except (OSError, ValueError):
        return RunStatus()


def current_status(folder: Path) -> RunStatus:
    """Returns the status of a run folder, checked against the lock that a running process holds.

    A process that is killed leaves the state `running` behind, but no lock; its run is `stopped`. If it ran on another
    host, a free lock proves nothing, because some network filesystems do not share locks between hosts: the state
    remains `running`, and the message names the host and the time since a file of the run has changed.
    """
    status = read_status(folder)
    if status.state != "running":
        return status
    locked = is_locked(folder / LOCK_FILE)
    where = _host_of(folder)
    reached = "" if status.step is None else f", step {status.step} of {status.max_steps or 'unknown'}"
    if where not in (None, socket.gethostname()):
        return replace(status, message=f"on {where} (last sign of life {_age(folder)} ago){reached}")
    if locked is False:
        return replace(status, state="stopped", message=f"its process was killed{reached}")
    return status


def name_host(file: IO[str]) -> None:
    """Writes host and process id to the open lock file of a run, for `current_status`."""
    file.truncate(0)
    file.write(f"{socket.gethostname()} {os.getpid()}\n")
    file.flush()


def lock_holder(folder: Path) -> psutil.Process | None:
    """Returns the process of this machine that holds a run's lock; None where there is none, or none that is known."""
    path = folder / LOCK_FILE
    if not is_locked(path):
        return None
    try:
        host, pid = path.read_text(encoding="utf-8").split()
        process = psutil.Process(int(pid))
        # A process that has the number of an earlier holder was started after that one wrote the file.
        known = host == socket.gethostname() and process.create_time() <= path.stat().st_mtime + 1
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return process if known else None


def _host_of(folder: Path) -> str | None:
    """The host of the process that holds or held the lock; None where it is not recorded."""
    try:
        words = (folder / LOCK_FILE).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return None
    return words[0] if words else None


def _age(folder: Path) -> str:
    """The time since the last change of a file that a running process writes."""
    files = [folder / name for name in (STATUS_FILE, "metrics.jsonl", "log.txt")]
    minutes = (time.time() - max(file.stat().st_mtime for file in files if file.exists())) / 60
    if minutes < 120:
        return f"{max(minutes, 0):.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def write_status(folder: Path, state: str, message: str = "", **changes: Any) -> None:
    """Writes a new state to a run folder's status.json. What else is known of the run is kept.

    Args:
        folder: The run folder.
        state: See `RunStatus`.
        message: Why the run is in this state; the old message is not kept.
        **changes: New values of other fields of `RunStatus`.
    """
    status = replace(read_status(folder), state=state, message=message, updated=time.time(), **changes)
    passing = state == "running"  # written at each record of a training, and unknown is as good after a power cut
    write_json(folder / STATUS_FILE, status.text(), durable=not passing)


def add_evaluation(folder: Path, name: str, *, borrowed: bool) -> dict[str, tuple[str, ...]]:
    """Returns the changes for `write_status` that add an evaluation.

    Args:
        folder: The run folder.
        name: The evaluation, as a path in the run folder, which becomes the latest.
        borrowed: Whether it was made for an experiment with `runs_of`.
    """
    status = read_status(folder)
    others = tuple(other for other in status.borrowed if other != name)
    return {
        "evaluations": (*(other for other in status.evaluations if other != name), name),
        "borrowed": (*others, name) if borrowed else others,
    }


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Tries to hold a run's lock for the duration of the block.

    Yields:
        Whether the lock is held; False where another process is at work in the folder.

    Raises:
        UserError: The filesystem does not support locks.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK_FILE))
        except InUse:
            ours = False
        else:
            ours = True
        yield ours
