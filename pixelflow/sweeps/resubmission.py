"""Submits runs of a sweep again, with the configs and the code that were frozen when it was submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pixelflow.errors import UserError
from pixelflow.runs.attempts import record
from pixelflow.runs.snapshot import require_complete
from pixelflow.sweeps.batch import Batch, frozen_jobs, newest_batch
from pixelflow.sweeps.budget import check_budget
from pixelflow.sweeps.local import run_batch
from pixelflow.sweeps.manifest import Sweep, submitting
from pixelflow.sweeps.plan import plan
from pixelflow.sweeps.show import print_jobs
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.slurm import require_slurm
from pixelflow.sweeps.states import UNFINISHED, chosen_runs, states_of
from pixelflow.sweeps.submission import submit
from pixelflow.terminal import say


def retry_runs(sweep: Sweep, runs: str | int | Sequence[str | int], changes: Mapping[str, Any]) -> None:
    """Submits the selected runs that are neither finished nor at work.

    Args:
        sweep: The sweep.
        runs: The selection, see `chosen_runs`.
        changes: Queue settings that differ from those of the newest submission.

    Raises:
        UserError: The sweep was never submitted, the selection is empty, or a setting is invalid.
    """
    batch = Batch.load(newest_batch(sweep))
    require_complete(batch.program.snapshot)
    site = changed_site(batch.site, changes)
    launcher = sweep.submissions[-1].launcher
    if launcher == "slurm":
        require_slurm()
    with submitting(sweep):
        sweep = Sweep.load(sweep.folder)
        chosen = chosen_runs(states_of(sweep.jobs.values()), runs)  # no other submission is under way
        names = [state.job.name for state in chosen if state.state in UNFINISHED]
        if not names:
            say(f"nothing to do: none of the {len(chosen)} chosen runs has failed or stopped")
            return
        planned = plan(frozen_jobs(sweep, names), site, again=True)
        check_budget(planned, site, launcher)
        for entry in planned:
            entry.job.path.mkdir(parents=True, exist_ok=True)  # it may have been deleted
            record(entry.job.path, "retry")
        submission = submit(sweep, planned, site, batch.program, launcher=launcher)
    for entry in planned:
        say(f"{entry.action:7} {entry.job.name}")
    print_jobs(submission)
    if launcher == "local":
        run_batch(sweep)


def changed_site(site: Site, changes: Mapping[str, Any]) -> Site:
    """Returns the queue settings with changes.

    Raises:
        UserError: A setting does not exist or is out of range.
    """
    try:
        return replace(site, **changes)
    except (ValueError, TypeError) as error:
        raise UserError(f"site: {error}") from None
