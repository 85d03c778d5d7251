"""job=cancel: takes runs of a sweep from the queue. Running ones save; the sweep's command continues them later."""

from __future__ import annotations

from dataclasses import dataclass

from pixelflow.config.job import Config, Job
from pixelflow.sweeps.cancellation import cancel_runs
from pixelflow.sweeps.manifest import find_sweep
from pixelflow.terminal import say


@dataclass(frozen=True)
class CancelOptions:
    """Options of job=cancel.

    Args:
        runs: "all", or a list of numbers, names and patterns such as ["*seed-1*"].
    """

    runs: str | int | list[str | int] = "all"


def run(config: Config, options: CancelOptions, overrides: list[str]) -> None:
    """Cancels the chosen runs and prints them."""
    sweep = find_sweep(config["sweep"])
    cancelled = cancel_runs(sweep, options.runs)
    for state in cancelled:
        say(f"cancelled {state.job.name}  {state.slurm}")
    say(f"{len(cancelled)} of {len(sweep.jobs)} runs")


JOB = Job(
    name="cancel",
    help="take runs of a sweep from the queue: job=cancel sweep=FOLDER",
    run=run,
    options=CancelOptions,
    needs=frozenset({"sweep"}),
)
