"""job=cancel: take runs of a sweep from the queue. Those at work save; the same command goes on from there."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from pixelflow.config.job import Config, Job
from pixelflow.jobs.retry import chosen_runs
from pixelflow.runs.status import write_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import find_sweep
from pixelflow.sweeps.states import sweep_states


@dataclass(frozen=True)
class CancelOptions:
    """Options of job=cancel.

    Args:
        runs: "all", or names or patterns such as ["*seed-1*"].
    """

    runs: str | int | list[str | int] = "all"


def run(config: Config, options: CancelOptions, overrides: list[str]) -> None:
    """Takes the runs from the queue, and asks those that are running to save and stop."""
    sweep = find_sweep(config["sweep"])
    chosen = [state for state in chosen_runs(sweep_states(sweep), options.runs) if state.active]
    ids: list[str] = []
    for state in chosen:
        if claim := read_claim(state.job.path):
            ids += [job for job in (claim.job, claim.then) if job]
        print(f"cancelled {state.job.name}  {state.slurm}")
    for pid in {job for job in ids if job.startswith("pid ")}:
        os.kill(int(pid[4:]), signal.SIGTERM)  # the launcher here: its jobs belong together
    slurm.cancel([job for job in ids if not job.startswith("pid ")])
    for state in chosen:
        if state.state == "queued":  # SLURM keeps no record of a task of an array that never started
            write_status(state.job.path, "cancelled", "cancelled before it started")
    print(f"{len(chosen)} of {len(sweep.jobs)} runs")


JOB = Job(
    name="cancel",
    help="take runs of a sweep from the queue: job=cancel sweep=FOLDER",
    run=run,
    options=CancelOptions,
    needs=frozenset({"sweep"}),
)
