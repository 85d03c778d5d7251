"""The table of a submitted sweep: the sweep's own runs only."""

from __future__ import annotations

import logging

from pixelflow.reporting.folder_reader import read_run_folders
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import Table, build_table
from pixelflow.sweeps.live_table import write
from pixelflow.sweeps.manifest import Sweep

logger = logging.getLogger(__name__)


def sweep_table(sweep: Sweep) -> Table | None:
    """Writes `table.{md,csv,tex,png}` to the folder of the sweep.

    Returns:
        The table; None before a run is finished.
    """
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
    write(table, sweep.folder, "table")
    return table
