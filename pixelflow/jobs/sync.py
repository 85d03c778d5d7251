"""job=sync: sends to MLflow what it has not received of a sweep: metrics, ends of killed runs, and whole runs."""

from __future__ import annotations

from dataclasses import dataclass

from pixelflow.config.job import Config, Job
from pixelflow.errors import WorkFailed
from pixelflow.sweeps.manifest import find_sweep
from pixelflow.sweeps.states import sweep_states
from pixelflow.terminal import say


@dataclass(frozen=True)
class SyncOptions:
    """Options of job=sync.

    Args:
        register: The name of a model in MLflow's registry; the sweep's best checkpoint becomes a version of it.
        metric: The metric by which a checkpoint is the best; None for the distance to the reference (fid or fd_...).
    """

    register: str | None = None
    metric: str | None = None


def run(config: Config, options: SyncOptions, overrides: list[str]) -> None:
    """Sends what is missing, and registers the best checkpoint if asked for.

    Raises:
        WorkFailed: MLflow did not accept all records.
    """
    from pixelflow.sweeps.mirroring import sync_sweep  # imports mlflow, which takes seconds
    from pixelflow.sweeps.registry import register_best

    sweep = find_sweep(config["sweep"])
    if problems := sync_sweep(sweep):
        raise WorkFailed(
            f"{len(problems)} runs are not completely in MLflow: {problems[0]}; repeat job=sync when it answers"
        )
    if options.register:
        folders = [state.job.path for state in sweep_states(sweep) if state.state == "finished"]
        say(register_best(folders, model=options.register, metric=options.metric))


JOB = Job(
    name="sync",
    help="send to MLflow what it missed of a sweep: job=sync sweep=FOLDER",
    run=run,
    options=SyncOptions,
    needs=frozenset({"sweep"}),
)
