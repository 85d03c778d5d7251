"""Waiting for the runs of a sweep, and giving up trials that promise nothing."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.runs.status import read_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.states import PRUNED, RunState, sweep_states
from pixelflow.tracking.jsonl import FILE_NAME, history

logger = logging.getLogger(__name__)

POLL = 5.0
RESULT = "result.json"


def follow(sweep: Sweep, names: Sequence[str], trials: Sequence[Any]) -> list[dict[str, Any]]:
    """Until none of the runs is at work. Each one's value, or its error.

    trials: (optuna trial, metric) of each run, to be given up when their pruner says so.
    """
    known = Sweep.load(sweep.folder)
    watched = {name: Watched(*entry) for name, entry in zip(names, trials, strict=True)} if trials else {}
    while True:
        states = {state.job.name: state for state in sweep_states(known)}
        for name, watch in watched.items():
            if states[name].active and watch.promises_nothing(states[name].job.path):
                give_up(watch.trial, states[name])
        if not any(states[name].active for name in names):
            return [result_of(states[name]) for name in names]
        time.sleep(POLL)


@dataclass
class Watched:
    """trial: of Optuna. metric: by which it is judged. step: the last that was reported."""

    trial: Any
    metric: str
    step: int = -1

    def promises_nothing(self, folder: Path) -> bool:
        file = folder / FILE_NAME
        for step, value in history(file).get(self.metric, []) if file.exists() else []:
            if step > self.step:
                self.trial.report(value, step)
                self.step = step
        return bool(self.trial.should_prune())


def give_up(trial: Any, state: RunState) -> None:
    from optuna.trial import TrialState

    logger.info("%s is given up: its pruner expects nothing of it", state.job.name)
    (state.job.path / PRUNED).touch()
    slurm.cancel([state.slurm])
    trial.study.tell(trial, state=TrialState.PRUNED)


def result_of(state: RunState) -> dict[str, Any]:
    if state.state == "pruned":
        return {"value": math.inf}  # no failure; the study knows already, and keeps what was reported
    if state.state != "finished":
        return {"error": f"{state.job.name} is {state.state}: {state.message} ({state.job.folder})"}
    return {"value": objective(state)}


def objective(state: RunState) -> Any:
    """What a search minimises: of a pipeline the distance to the reference, of a training its last loss; else what
    the job returned."""
    folder = state.job.path
    if state.job.job == "pipeline":
        file = folder / read_status(folder).evaluations[-1]
        metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
        return next(value for name, value in metrics.items() if name.startswith(("fd_", "fid")))
    if state.job.job == "train":
        return history(folder / FILE_NAME)["loss"][-1][1]
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))
