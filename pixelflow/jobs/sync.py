"""job=sync: what MLflow missed of a sweep: metrics, ends of runs that were killed, runs it never heard of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelflow.jobs.status import end_dead_runs, tell_end
from pixelflow.launch.attempts import held, read_claim
from pixelflow.launch.states import sweep_states
from pixelflow.launch.sweep import Sweep, find_sweep
from pixelflow.tracking import sync
from pixelflow.tracking.mlflow_registry import register_best
from pixelflow.tracking.mlflow_state import count_unsent
from pixelflow.tracking.mlflow_sweep import end_parent, schedule

logger = logging.getLogger(__name__)


def run(config: Mapping[str, Any], overrides: list[str]) -> None:
    sweep = find_sweep(config["sweep"])
    if problems := sync_sweep(sweep):
        raise OSError(f"{len(problems)} runs are not whole in MLflow yet: {problems[0]}")
    if config["job"]["register"]:
        folders = [state.job.path for state in sweep_states(sweep) if state.state == "finished"]
        print(register_best(folders, model=config["job"]["register"], metric=config["job"]["metric"]))


def sync_sweep(sweep: Sweep, artifacts: Sequence[Path] = ()) -> list[str]:
    """artifacts: for the parent run. Returns what is still missing, a line a run."""
    states = sweep_states(sweep)
    end_dead_runs(states)
    for state in states:
        if state.state == "finished":
            with held(state.job.path) as ours:
                if ours:  # killed between its work's end and its own word of it
                    tell_end(state.job.path, "FINISHED")
    folders = [job.path for job in sweep.jobs.values() if (job.path / "mlflow.json").exists()]
    if not folders:
        logger.info("no run of %s is tracked by MLflow", sweep.folder)
        return []
    sweep.mlflow = schedule(tags_of(folders), **sweep.mlflow, name=sweep.folder.name, announce=False)
    problems, sent = [], 0
    for folder in folders:
        report = sync(folder)
        sent += report.sent
        if report.error and "another process mirrors" not in report.error:
            problems.append(f"{folder.name}: {report.error}")
    unsent = sum(count_unsent(folder) for folder in folders)
    print(f"sent {sent} records of {len(folders)} runs to MLflow; {unsent} are not there yet")
    states = sweep_states(sweep)
    if not any(state.active for state in states):
        end_parent(sweep.mlflow, failed=any(state.state != "finished" for state in states),
                   artifacts=artifacts)  # fmt: skip
    return problems


def tags_of(folders: list[Path]) -> dict[Path, dict[str, str]]:
    claims = {folder: read_claim(folder) for folder in folders}
    return {folder: claim.tags if claim else {} for folder, claim in claims.items()}
