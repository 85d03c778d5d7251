"""Waits for the runs of a sweep, and stops trials that the pruner of a search rejects.

While SLURM does not answer, the states of its jobs are unknown: the wait goes on, however long that takes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
RETRY = 30.0
"""Seconds between two attempts while SLURM does not answer."""

T = TypeVar("T")


def until_answered(work: Callable[[], T]) -> T:
    """Returns `work()`, which is called again as long as SLURM does not answer.

    Raises:
        Interrupted: A signal asked to stop in between.
    """
    while True:
        try:
            return work()
        except slurm.NoAnswer as error:
            logger.warning("%s; this command tries again every %.0f s", error, RETRY)
        with stop_on_signals():
            pause(RETRY)
            if stop_signal() is not None:
                raise Interrupted("SLURM does not answer")


def follow(runs: Sequence[SweepJob], trials: Sequence[Any]) -> list[RunState]:
    """Waits until none of the runs is active.

    Args:
        runs: The runs.
        trials: The optuna trial and the metric of each run, for pruning; empty for no pruning.

    Returns:
        The state of each run.

    Raises:
        Interrupted: A signal asked to stop. The jobs of a cluster continue.
    """
    with stop_on_signals():
        return _follow(runs, trials)


def _follow(runs: Sequence[SweepJob], trials: Sequence[Any]) -> list[RunState]:
    jobs = {run.name: run for run in runs}
    watched = {run.name: Watched(*entry) for run, entry in zip(runs, trials, strict=True)} if trials else {}
    active, silent, cancelled = len(jobs), False, dict[str, RunState]()
    while True:
        try:
            states = {state.job.name: state for state in states_of(jobs.values())}
            for name, watch in list(watched.items()):
                if states[name].active and watch.should_prune(states[name].job.path):
                    prune(watch.trial, states[name])
                    del watched[name]  # until its job has saved, it still logs
        except slurm.NoAnswer as error:
            if not silent:
                logger.warning("%s: the jobs continue, and this command waits for SLURM", error)
            silent = True
        else:
            silent = False
            # SLURM forgets a cancelled job after minutes; it is then interrupted, as if it were to be submitted again.
            cancelled |= {name: state for name, state in states.items() if state.state == "cancelled"}
            states |= cancelled
            active = sum(state.active for state in states.values())
            if not active:
                return [states[run.name] for run in runs]
        pause(POLL)
        if stop_signal() is not None:
            raise Interrupted(f"{active} of {len(jobs)} jobs are not over and are not cancelled")


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
    """Cancels the job of a trial and marks its run and the trial as pruned. It can be repeated if SLURM is away."""
    from optuna.trial import TrialState

    logger.info("%s is stopped by the pruner of the search", state.job.name)
    (state.job.path / PRUNED).touch()
    slurm.cancel([state.slurm])
    trial.study.tell(trial, state=TrialState.PRUNED)


def result_of(state: RunState, evaluation: str | None) -> dict[str, Any]:
    """Returns `{"value": ...}` for a finished run, and `{"error": message}` for another."""
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
