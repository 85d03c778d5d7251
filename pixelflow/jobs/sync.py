"""job=sync: what MLflow missed of a sweep: metrics, ends of runs that were killed, runs it never heard of."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pixelflow.config.job import Config, Job
from pixelflow.sweeps.manifest import find_sweep
from pixelflow.sweeps.states import sweep_states

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncOptions:
    """Options of job=sync.

    Args:
        register: the name of a model in MLflow's registry; the sweep's best checkpoint becomes a version of it.
        metric: the metric by which a checkpoint is the best; None for the distance to the reference (fid or fd_...).
    """

    register: str | None = None
    metric: str | None = None


def run(config: Config, options: SyncOptions, overrides: list[str]) -> None:
    """Sends what is missing, and registers the best checkpoint if asked for."""
    from pixelflow.sweeps.mirroring import sync_sweep  # mlflow: seconds
    from pixelflow.tracking.mlflow.registry import register_best

    sweep = find_sweep(config["sweep"])
    if problems := sync_sweep(sweep):
        raise OSError(f"{len(problems)} runs are not whole in MLflow yet: {problems[0]}")
    if options.register:
        folders = [state.job.path for state in sweep_states(sweep) if state.state == "finished"]
        print(register_best(folders, model=options.register, metric=options.metric))


JOB = Job(
    name="sync",
    help="send to MLflow what it missed of a sweep: job=sync sweep=FOLDER",
    run=run,
    options=SyncOptions,
    needs=frozenset({"sweep"}),
)
