"""Takes runs of a sweep from the queue. Running ones save first."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil

from pixelflow.errors import UserError
from pixelflow.runs.status import lock_holder, write_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import Claim, Launcher, read_claim
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.states import RunState, chosen_runs, sweep_states
from pixelflow.terminal import say


def cancel_runs(sweep: Sweep, runs: str | int | Sequence[str | int]) -> list[RunState]:
    """Cancels the selected runs that are queued or at work, and those whose launcher has ended before them.

    Args:
        sweep: The sweep.
        runs: The selection, see `chosen_runs`.

    Returns:
        The cancelled runs, in their states before.

    Raises:
        UserError: The selection names no run, or a launcher on another machine runs the jobs; none is cancelled.
        WorkFailed: SLURM does not answer.
    """
    chosen: list[tuple[RunState, Claim]] = []
    slurm_jobs: list[str] = []
    for state in chosen_runs(sweep_states(sweep), runs):
        claim = read_claim(state.job.path)
        if claim and (state.active or (state.state == "lost" and claim.launcher)):
            chosen.append((state, claim))
    launchers = {claim.launcher for _, claim in chosen if claim.launcher}
    for launcher in sorted(launchers, key=lambda launcher: not launcher.elsewhere):  # those that are refused come first
        _stop(launcher, [state for state, claim in chosen if claim.launcher == launcher])
    for _, claim in chosen:  # a sweep that waits for the jobs of another one does not cancel those
        slurm_jobs += claim.own_jobs if Path(claim.sweep) == sweep.folder else claim.slurm_jobs
    slurm.cancel(slurm_jobs)
    for state, _ in chosen:
        if state.state in ("queued", "lost"):  # SLURM keeps no record of a task of an array that never started
            write_status(state.job.path, "cancelled", "cancelled before it started" if not state.step else "cancelled")
    return [state for state, _ in chosen]


def _stop(launcher: Launcher, states: Sequence[RunState]) -> None:
    """Asks a launcher to stop all of its jobs, or the jobs themselves where it has ended."""
    if launcher.elsewhere and any(state.active for state in states):
        raise UserError(
            f"{len(states)} runs belong to the launcher on {launcher.host} (process {launcher.pid}); cancel them "
            "there. Nothing was cancelled"
        )
    processes = [launcher.process]
    if processes == [None]:
        say(f"the launcher ({launcher}) has ended; its runs are marked as cancelled, and those at work are stopped")
        processes = [lock_holder(state.job.path) for state in states if state.state == "running"]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None:
                try:
                    process.terminate()
                except psutil.AccessDenied:
                    raise UserError(f"the launcher ({launcher}) belongs to another user, who can cancel it") from None
