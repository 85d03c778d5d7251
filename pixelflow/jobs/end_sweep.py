"""The last job of a sweep, after all others: its table, and what is missing.

python -m pixelflow.jobs.end_sweep FOLDER
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pixelflow.jobs.status import end_dead_runs, print_states, verdict
from pixelflow.jobs.sync import sync_sweep
from pixelflow.launch.states import sweep_states
from pixelflow.launch.sweep import Sweep
from pixelflow.reporting.figures import metric_chart
from pixelflow.reporting.runs import Run, read_run_folders
from pixelflow.reporting.table import Table, build_table

logger = logging.getLogger(__name__)


def main() -> None:
    """Leaves with 0 when every run is finished, as the sweep's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sweep = Sweep.load(Path(sys.argv[1]))
    end_dead_runs(sweep_states(sweep))
    states = sweep_states(sweep)
    files: list[Path] = []
    if table := sweep_table(sweep):
        print(table.to_markdown())
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
    table.write(sweep.folder, "table")
    metric_chart(table, sweep.folder / "table.png")
    return table


if __name__ == "__main__":
    main()
