"""job=sync: what MLflow missed of a sweep: metrics, ends of runs that were killed, runs it never heard of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pixelflow.sweeps.manifest import find_sweep
from pixelflow.sweeps.mirroring import sync_sweep
from pixelflow.sweeps.states import sweep_states
from pixelflow.tracking.mlflow.registry import register_best

logger = logging.getLogger(__name__)


def run(config: Mapping[str, Any], overrides: list[str]) -> None:
    sweep = find_sweep(config["sweep"])
    if problems := sync_sweep(sweep):
        raise OSError(f"{len(problems)} runs are not whole in MLflow yet: {problems[0]}")
    if config["job"]["register"]:
        folders = [state.job.path for state in sweep_states(sweep) if state.state == "finished"]
        print(register_best(folders, model=config["job"]["register"], metric=config["job"]["metric"]))
