"""What the rest of the code logs through: the file first, MLflow behind it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelflow.tracking.jsonl import MetricsLog, Status
from pixelflow.tracking.mlflow.mirror import MLflowMirror
from pixelflow.tracking.system import system_metrics


class Tracker:
    """Logs to `folder/metrics.jsonl`; `mirror`, if any, sends that on.

    system_metrics_every: seconds between samples of the machine, which travel with a line of metrics.
    """

    def __init__(self, *, folder: Path, mirror: MLflowMirror | None = None, system_metrics_every: float = 10.0) -> None:
        self._log = MetricsLog(folder)
        self._mirror = mirror
        self._every = system_metrics_every
        self._sampled, self._sampled_step = -float("inf"), -1

    def resume_from(self, step: int) -> None:
        """Call before the first `log` of a resumed run: see MetricsLog.resume_from."""
        self._log.resume_from(step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = time.monotonic()
        # Once a step at most: the evaluation logs for the last step of training, too.
        if now - self._sampled >= self._every and step != self._sampled_step:
            self._sampled, self._sampled_step = now, step
            values = {**values, **system_metrics()}
        self._log.metrics(values, step=step)

    def params(self, mapping: Mapping[str, Any]) -> None:
        self._log.params(mapping)

    def tags(self, mapping: Mapping[str, Any]) -> None:
        self._log.tags(mapping)

    def artifact(self, path: Path) -> None:
        self._log.artifact(path)

    def finish(self, status: Status) -> None:
        """The run's end: nothing can be logged after it. Waits for MLflow, but not for long (MLflowMirror.close)."""
        self._log.status(status)
        self._log.close()
        if self._mirror is not None:
            self._mirror.close()
