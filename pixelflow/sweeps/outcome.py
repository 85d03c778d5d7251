"""The outcome of one attempt at a job, read from the run's status and the exit status of its process."""

from __future__ import annotations

import signal
from collections.abc import Collection
from pathlib import Path

from pixelflow.runs.attempts import record
from pixelflow.runs.status import read_status, write_status
from pixelflow.signals import CONTINUE

SILENT = (0, *(128 + number for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)))
"""Exit statuses of a task that was ended from outside."""


def outcome_of(folder: Path, job: str, evaluations: Collection[str], code: int) -> str:
    """Returns `finished`, `failed`, `interrupted` (saved) or `killed` (ended without recording why).

    Args:
        folder: The run folder.
        job: The job that was executed.
        evaluations: The evaluations that belong to it, see `is_finished`.
        code: The exit status of its process, 128 + N after signal N.
    """
    state = read_status(folder).state
    if is_finished(folder, job, evaluations):
        return "finished"
    if state == "interrupted" or (code == CONTINUE and state != "failed"):
        return "interrupted"
    # A signal from outside, or 0 from an aborted step, leaves no record. Any other status comes from the task itself.
    return "killed" if state != "failed" and code in SILENT else "failed"


def is_finished(folder: Path, job: str, evaluations: Collection[str]) -> bool:
    """Whether a job is finished in a run folder.

    Args:
        folder: The run folder.
        job: The job. A finished pipeline includes the training.
        evaluations: The evaluations that the job makes, as paths in the run folder; empty for one that makes none.
    """
    status = read_status(folder)
    finished = status.state == "finished" and status.job in (job, "pipeline")
    return finished and set(evaluations) <= set(status.evaluations)


def step_of(folder: Path) -> int:
    """Returns the training step that the run has reached."""
    return read_status(folder).step or 0


def record_end(folder: Path, code: int, outcome: str) -> None:
    """Records the end of an attempt in `attempts.jsonl`."""
    record(folder, "end", step=step_of(folder), exit=code, outcome=outcome)


def record_failure(folder: Path, message: str) -> None:
    """Records that no further attempt is made at a run."""
    write_status(folder, "failed", message)
    record_end(folder, 1, "failed")
