"""Takes runs of a sweep from the queue. Running ones save first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

from pixelflow.runs.status import write_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.selection import chosen_runs
from pixelflow.sweeps.states import RunState, sweep_states


def cancel_runs(sweep: Sweep, runs: str | int | Sequence[str | int]) -> list[RunState]:
    """Cancels the selected runs that are queued or at work.

    Args:
        sweep: The sweep.
        runs: The selection, see `chosen_runs`.

    Returns:
        The cancelled runs, in their states before.

    Raises:
        UserError: The selection names no run.
        WorkFailed: SLURM does not answer.
    """
    chosen = [state for state in chosen_runs(sweep_states(sweep), runs) if state.active]
    claims = [claim for state in chosen if (claim := read_claim(state.job.path))]
    for process in {claim.local_process for claim in claims} - {None}:
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)  # the launcher on this machine stops all of its jobs
    slurm.cancel([job for claim in claims for job in claim.slurm_jobs])
    for state in chosen:
        if state.state == "queued":  # SLURM keeps no record of a task of an array that never started
            write_status(state.job.path, "cancelled", "cancelled before it started")
    return chosen
