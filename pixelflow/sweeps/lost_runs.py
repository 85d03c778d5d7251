"""Records the end of runs whose process was killed before it could record the end itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pixelflow.runs.attempts import record
from pixelflow.runs.status import held, read_status, write_status
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import Sweep, submitting
from pixelflow.sweeps.outcome import step_of
from pixelflow.sweeps.states import RunState, states_of
from pixelflow.tracking.jsonl import FILE_NAME, MetricsLog, Status, read_records


def end_lost_runs(sweep: Sweep) -> list[RunState]:
    """Records the end of runs that were killed or cancelled and could not record it.

    Returns:
        The states of all runs of the sweep.
    """
    changed = False
    with submitting(sweep):  # a job that is being submitted is not in the queue yet, as if it were lost
        states = states_of(sweep.jobs.values())
        for state in states:
            folder = state.job.path
            if state.state not in ("lost", "cancelled", "failed", "pruned") or not folder.is_dir():
                continue
            with held(folder) as ours:
                if not ours:
                    continue
                if state.state in ("lost", "cancelled"):
                    _end(folder, state)
                    changed = True
                log_end(folder, "FAILED" if state.state == "failed" else "KILLED")
    return states_of(sweep.jobs.values()) if changed else states


def log_end(folder: Path, status: Status) -> None:
    """Adds the end of a run that MLflow tracks to metrics.jsonl, unless it is there; the next sync sends it."""
    if (folder / "mlflow.json").exists() and last_end(folder) is None:
        with contextlib.suppress(OSError), MetricsLog(folder) as log:
            log.status(status)


def last_end(folder: Path) -> str | None:
    """Returns the end that metrics.jsonl records, if nothing was logged after it."""
    path = folder / FILE_NAME
    end = None
    for line, _ in read_records(path, warn=False) if path.exists() else ():
        end = line.get("status")
    return end


def _end(folder: Path, state: RunState) -> None:
    known = read_status(folder).state
    if state.state == "cancelled":
        new, message = "cancelled", "cancelled"
    else:
        new, message = "interrupted", state.message
    if known == new:
        return
    write_status(folder, new, message)
    if known in ("starting", "running"):
        claim = read_claim(folder)
        token = claim.token if claim else ""
        record(folder, "end", step=step_of(folder), exit=None, outcome="interrupted", token=token)
