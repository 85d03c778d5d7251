"""Records the end of runs whose process was killed before it could record the end itself."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pixelflow.runs.attempts import record
from pixelflow.runs.status import held, read_status, write_status
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.states import RunState
from pixelflow.tracking.jsonl import FILE_NAME, MetricsLog, Status, read_records


def end_dead_runs(states: Sequence[RunState]) -> bool:
    """Write down the end of runs that were killed without a word, which their own records do not know.

    Returns whether there was one.
    """
    found = False
    for state in states:
        folder = state.job.path
        if state.state not in ("lost", "cancelled", "failed", "pruned") or not folder.is_dir():
            continue
        with held(folder) as ours:
            if not ours:
                continue
            if state.state in ("lost", "cancelled"):
                _end(folder, state)
                found = True
            tell_end(folder, "FAILED" if state.state == "failed" else "KILLED")
    return found


def tell_end(folder: Path, word: Status) -> None:
    """To metrics.jsonl, from where the next sync tells MLflow, unless the run has done so."""
    if (folder / "mlflow.json").exists() and last_end(folder) is None:
        with contextlib.suppress(OSError), MetricsLog(folder) as log:
            log.status(word)


def _end(folder: Path, state: RunState) -> None:
    claim = read_claim(folder)
    known = read_status(folder)
    lost = "it left the queue" if known.state == "queued" else "its process ended without a word"
    message = "cancelled" if state.state == "cancelled" else lost
    new = "cancelled" if state.state == "cancelled" else "interrupted"
    if known.state == new:
        return
    write_status(folder, new, message)
    if known.state in ("starting", "running"):
        record(folder, "end", step=known.step or 0, exit=None, outcome="interrupted",
               token=claim.token if claim else "")  # fmt: skip


def last_end(folder: Path) -> str | None:
    """The end that metrics.jsonl knows, if nothing was logged after it."""
    path = folder / FILE_NAME
    end = None
    for line, _ in read_records(path, warn=False) if path.exists() else ():
        end = line.get("status")
    return end
