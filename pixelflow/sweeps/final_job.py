"""The end of a sweep: its table, and the last job, which writes it after all others and prints what is missing."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pixelflow.reporting.folder_reader import read_recipe_runs
from pixelflow.reporting.formats import markdown
from pixelflow.reporting.runs import Run, arms_of
from pixelflow.reporting.table import Table, build_table
from pixelflow.runs.sharing import claim_borrowed
from pixelflow.sweeps.live_table import write
from pixelflow.sweeps.lost_runs import end_lost_runs
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.mirroring import sync_sweep
from pixelflow.sweeps.show import print_states, verdict
from pixelflow.sweeps.waiting import until_answered
from pixelflow.terminal import log_to_terminal, say

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalJob:
    """The job as submitit pickles it.

    Args:
        folder: The folder of the sweep.
    """

    folder: str

    def __call__(self) -> None:
        """Ends the sweep. The exit status is 0 when every run is finished, 1 otherwise."""
        log_to_terminal()
        sweep = Sweep.load(Path(self.folder))
        states = until_answered(lambda: end_lost_runs(sweep))
        files: list[Path] = []
        if table := sweep_table(sweep):
            say(markdown(table))
            files = [sweep.folder / "table.md", sweep.folder / "table.png"]
        if sweep.mlflow:
            sync_sweep(sweep, files)
        print_states(sweep, states)
        if status := verdict(states):
            sys.exit(status)


def sweep_runs(sweep: Sweep) -> list[Run]:
    """Returns the runs of a sweep once for each of its experiment's evaluations."""
    jobs = [job for job in sweep.jobs.values() if (job.path / "config.yaml").exists()]
    for job in () if sweep.borrows else jobs:  # another experiment may have made an evaluation since the submission
        claim_borrowed(sweep.recipe_folder, job.path, job.evaluations)
    return read_recipe_runs(
        sweep.recipe_folder, [job.path for job in jobs], borrows=sweep.borrows,
        evaluations=[(job.path, name) for job in jobs for name in job.evaluations],
    )  # fmt: skip


def sweep_table(sweep: Sweep) -> Table | None:
    """Writes `table.{md,csv,tex,png}` to the folder of the sweep.

    Returns:
        The table; None before a run is finished.
    """
    runs = sweep_runs(sweep)
    command = sweep.submissions[-1].command if sweep.submissions else ""
    try:
        arms = sweep.presentation.arms or arms_of(runs)
        table = build_table(runs, replace(sweep.presentation, arms=arms), command=command)
    except ValueError as error:
        logger.info("no table yet: %s", error)
        return None
    write(table, sweep.folder, "table")
    return table
