"""job=retry: runs of a sweep once more, with the configs and the code that were frozen when it was submitted.

The sweep's own command, given again, takes the code of now instead. Options of the site can be changed for the new
try: job=retry sweep=... site.mem_gb=64
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pixelflow.config.job import Config, Job
from pixelflow.runs.attempts import record
from pixelflow.sweeps.local import run_batch
from pixelflow.sweeps.manifest import Sweep, find_sweep, submitting
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import RunState, sweep_states
from pixelflow.sweeps.submission import frozen_jobs, last_site, plan, submit

UNFINISHED = ("failed", "interrupted", "lost", "cancelled", "new", "pruned")


@dataclass(frozen=True)
class RetryOptions:
    """Options of job=retry.

    Args:
        runs: "failed" for all that failed, were cancelled, interrupted or lost; or names or patterns such as
            ["*seed-1*"].
    """

    runs: str | int | list[str | int] = "failed"


def run(config: Config, options: RetryOptions, overrides: list[str]) -> None:
    """Submits the chosen runs and prints them."""
    sweep = find_sweep(config["sweep"])
    if not sweep.submissions:
        raise ValueError(f"{sweep.folder} was never submitted: give the sweep's own command")
    settings, snapshot, cwd = last_site(sweep)
    site = Site(**settings | changed_site(overrides))
    launcher = sweep.submissions[-1].launcher
    with submitting(sweep.folder.parent):
        sweep = Sweep.load(sweep.folder)
        chosen = chosen_runs(sweep_states(sweep), options.runs)
        names = [state.job.name for state in chosen if state.state in UNFINISHED]
        if not names:
            print(f"nothing to do: none of the {len(chosen)} chosen runs has failed or stopped")
            return
        planned = plan(frozen_jobs(sweep, names), site, again=True)
        for entry in planned:
            record(entry.job.path, "retry")
        submission = submit(sweep, planned, site, snapshot, launcher=launcher, cwd=cwd)
    for entry in planned:
        print(f"{entry.action:7} {entry.job.name}  {submission.jobs.get(entry.job.name, '')}")
    if launcher == "local":
        run_batch(sweep)


def changed_site(overrides: Sequence[str]) -> dict[str, Any]:
    """site.KEY=VALUE of what was typed."""
    given = (override.lstrip("+").split("=", 1) for override in overrides if override.lstrip("+").startswith("site."))
    return {key.removeprefix("site."): yaml.safe_load(value) for key, value in given}


def chosen_runs(states: Sequence[RunState], runs: str | int | Sequence[str | int]) -> list[RunState]:
    """runs: "all", "failed" for all that did not finish, or numbers in the order of job=status, names, or patterns.

    Raises ValueError for one that chooses nothing.
    """
    if runs == "all":
        return list(states)
    if runs == "failed":
        return [state for state in states if state.state in UNFINISHED]
    chosen: list[RunState] = []
    for entry in [runs] if isinstance(runs, str | int) else runs:
        if isinstance(entry, int):
            found = list(states[entry : entry + 1])
        else:
            found = [state for state in states if fnmatch.fnmatch(state.job.name, entry)]
        if not found:
            raise ValueError(f"job.runs: {entry!r} is none of the sweep's {len(states)} runs; job=status lists them")
        chosen += [state for state in found if state not in chosen]
    return chosen


JOB = Job(
    name="retry",
    help="submit runs of a sweep again, as they were frozen: job=retry sweep=FOLDER",
    run=run,
    options=RetryOptions,
    needs=frozenset({"sweep"}),
)
