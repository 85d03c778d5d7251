"""Sends the records of a sweep to MLflow that MLflow has not received."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pixelflow.runs.status import held
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.lost_runs import end_lost_runs, log_end
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.states import sweep_states
from pixelflow.terminal import say
from pixelflow.tracking import sync
from pixelflow.tracking.mlflow.children import end_parent, schedule
from pixelflow.tracking.mlflow.position import count_unsent

logger = logging.getLogger(__name__)


def sync_sweep(sweep: Sweep, artifacts: Sequence[Path] = ()) -> list[str]:
    """Sends metrics, ends of killed runs, and runs that MLflow does not have.

    Args:
        sweep: The sweep.
        artifacts: Files for the parent run.

    Returns:
        One line for each run whose records could not be sent.
    """
    for state in end_lost_runs(sweep):
        if state.state == "finished":
            with held(state.job.path) as ours:
                if ours:  # the run was killed after its work was done, before it logged its end
                    log_end(state.job.path, "FINISHED")
    folders = [job.path for job in sweep.jobs.values() if (job.path / "mlflow.json").exists()]
    if not folders:
        logger.info("no run of %s is tracked by MLflow", sweep.folder)
        return []
    sweep.mlflow = schedule(_tags_of(folders), **sweep.mlflow, name=sweep.folder.name, announce=False)
    problems, sent = [], 0
    for folder in folders:
        report = sync(folder)
        sent += report.sent
        if report.error and "another process mirrors" not in report.error:
            problems.append(f"{folder.name}: {report.error}")
    unsent = sum(count_unsent(folder) for folder in folders)
    say(f"sent {sent} records of {len(folders)} runs to MLflow; {unsent} are not there yet")
    states = sweep_states(sweep)
    if not any(state.active for state in states):
        failed = any(state.state != "finished" for state in states)
        end_parent(sweep.mlflow, failed=failed, artifacts=artifacts)
    return problems


def _tags_of(folders: list[Path]) -> dict[Path, dict[str, str]]:
    claims = {folder: read_claim(folder) for folder in folders}
    return {folder: claim.tags if claim else {} for folder, claim in claims.items()}
