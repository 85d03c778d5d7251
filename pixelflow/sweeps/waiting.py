"""Waits for the runs of a sweep, and stops trials that the pruner of a search rejects."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.errors import Interrupted
from pixelflow.metrics.catalogue import main_distance
from pixelflow.reporting.runs import read_evaluation
from pixelflow.signals import pause, stop_on_signals, stop_signal
from pixelflow.sweeps import slurm
from pixelflow.sweeps.batch import RESULT
from pixelflow.sweeps.json_records import read_record
from pixelflow.sweeps.manifest import SweepJob
from pixelflow.sweeps.states import PRUNED, RunState, states_of
from pixelflow.tracking.jsonl import FILE_NAME, history

logger = logging.getLogger(__name__)

POLL = 5.0


@dataclass(frozen=True)
class Awaited:
    """A run whose result is awaited, and the evaluation of it that is meant, if the job makes one."""

    job: SweepJob
    evaluation: str | None = None


def follow(runs: Sequence[Awaited], trials: Sequence[Any]) -> list[dict[str, Any]]:
    """Waits until none of the runs is active.

    Args:
        runs: The runs.
        trials: The optuna trial and the metric of each run, for pruning; empty for no pruning.

    Returns:
        For each run `{"value": ...}`, or `{"error": message}` where it did not finish.

    Raises:
        Interrupted: A signal asked to stop. The jobs of a cluster continue.
    """
    with stop_on_signals():
        return _follow(runs, trials)


def _follow(runs: Sequence[Awaited], trials: Sequence[Any]) -> list[dict[str, Any]]:
    jobs = {run.job.name: run.job for run in runs}
    watched = {run.job.name: Watched(*entry) for run, entry in zip(runs, trials, strict=True)} if trials else {}
    while True:
        states = {state.job.name: state for state in states_of(jobs.values())}
        for name, watch in list(watched.items()):
            if states[name].active and watch.should_prune(states[name].job.path):
                prune(watch.trial, states[name])
                del watched[name]  # until its job has saved, it still logs
        if not any(states[run.job.name].active for run in runs):
            return [result_of(states[run.job.name], run.evaluation) for run in runs]
        pause(POLL)
        if stop_signal() is not None:
            active = sum(states[run.job.name].active for run in runs)
            raise Interrupted(f"{active} of {len(runs)} jobs are not over and are not cancelled")


@dataclass
class Watched:
    """An Optuna trial, the metric by which its pruner judges it, and the last step that was reported."""

    trial: Any
    metric: str
    step: int = -1

    def should_prune(self, folder: Path) -> bool:
        """Reports the new values of the metric to the trial. Returns whether its pruner stops it."""
        file = folder / FILE_NAME
        for step, value in history(file).get(self.metric, []) if file.exists() else []:
            if step > self.step:
                self.trial.report(value, step)
                self.step = step
        return bool(self.trial.should_prune())


def prune(trial: Any, state: RunState) -> None:
    """Cancels the job of a trial and marks its run and the trial as pruned."""
    from optuna.trial import TrialState

    logger.info("%s is stopped by the pruner of the search", state.job.name)
    (state.job.path / PRUNED).touch()
    slurm.cancel([state.slurm])
    trial.study.tell(trial, state=TrialState.PRUNED)


def result_of(state: RunState, evaluation: str | None) -> dict[str, Any]:
    """Returns the value of a finished run, or the error of another."""
    if state.state == "pruned":
        return {"value": math.inf}  # not a failure; the study has already marked the trial as pruned
    if state.state != "finished":
        return {"error": f"{state.job.name} is {state.state}: {state.message} ({state.job.folder})"}
    return {"value": objective(state, evaluation)}


def objective(state: RunState, evaluation: str | None) -> Any:
    """Returns what a search minimises.

    It is the distance to the reference for a pipeline, the last loss for a training, and otherwise the job's result.
    """
    folder = state.job.path
    if not state.job.makes_run:
        return read_record(folder / RESULT, Any)
    if evaluation is None:
        return history(folder / FILE_NAME)["loss"][-1][1]
    return main_distance(read_evaluation(folder / evaluation).metrics)
