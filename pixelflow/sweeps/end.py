"""The last job of a sweep, after all others: its table, and what is missing.

python -m pixelflow.sweeps.end FOLDER
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pixelflow.reporting.figures import metric_chart
from pixelflow.reporting.folder_reader import read_run_folders
from pixelflow.reporting.formats import markdown, write_table
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import Table, build_table
from pixelflow.sweeps.dead import end_dead_runs
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.mirroring import sync_sweep
from pixelflow.sweeps.show import print_states, verdict
from pixelflow.sweeps.states import sweep_states

logger = logging.getLogger(__name__)


def main() -> None:
    """Leaves with 0 when every run is finished, as the sweep's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sweep = Sweep.load(Path(sys.argv[1]))
    end_dead_runs(sweep_states(sweep))
    states = sweep_states(sweep)
    files: list[Path] = []
    if table := sweep_table(sweep):
        print(markdown(table))
        files = [sweep.folder / "table.md", sweep.folder / "table.png"]
    if sweep.mlflow:
        sync_sweep(sweep, files)
    print_states(sweep, states)
    sys.exit(verdict(states))


def sweep_table(sweep: Sweep) -> Table | None:
    """Write `table.{md,csv,tex,png}` of the sweep's own runs to its folder; None before one is finished."""
    runs: list[Run] = []
    for job in sweep.jobs.values():
        if (job.path / "config.yaml").exists():
            runs += read_run_folders(job.path)
    command = sweep.submissions[-1].command if sweep.submissions else ""
    try:
        table = build_table(runs, paper=sweep.paper, axes=sweep.axes, command=command)
    except ValueError as error:
        logger.info("no table yet: %s", error)
        return None
    write_table(table, sweep.folder, "table")
    metric_chart(table, sweep.folder / "table.png")
    return table


if __name__ == "__main__":
    main()
