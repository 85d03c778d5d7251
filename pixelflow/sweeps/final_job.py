"""The last job of a sweep, after all others: it writes the table of the sweep and prints what is missing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pixelflow.reporting.formats import markdown
from pixelflow.sweeps.lost_runs import end_lost_runs
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.mirroring import sync_sweep
from pixelflow.sweeps.show import print_states, verdict
from pixelflow.sweeps.tables import sweep_table
from pixelflow.terminal import log_to_stderr, say


@dataclass(frozen=True)
class FinalJob:
    """The job as submitit pickles it.

    Args:
        folder: The folder of the sweep.
    """

    folder: str

    def __call__(self) -> None:
        """Ends the sweep. The exit status is 0 when every run is finished, 1 otherwise."""
        log_to_stderr()
        sweep = Sweep.load(Path(self.folder))
        states = end_lost_runs(sweep)
        files: list[Path] = []
        if table := sweep_table(sweep):
            say(markdown(table))
            files = [sweep.folder / "table.md", sweep.folder / "table.png"]
        if sweep.mlflow:
            sync_sweep(sweep, files)
        print_states(sweep, states)
        if status := verdict(states):
            sys.exit(status)
