"""The tracker of a run, through which the rest of the code logs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelflow.tracking.jsonl import MetricsLog, Status
from pixelflow.tracking.mlflow.mirror import MLflowMirror
from pixelflow.tracking.system import system_metrics


class Tracker:
    """Logs to `folder/metrics.jsonl`, which a mirror sends to MLflow.

    Args:
        folder: The run folder.
        mirror: The mirror of that file; closed by `finish`.
        system_metrics_every: Seconds between samples of the machine, which are written with a line of metrics.
    """

    def __init__(self, *, folder: Path, mirror: MLflowMirror | None = None, system_metrics_every: float = 10.0) -> None:
        self._log = MetricsLog(folder)
        self._mirror = mirror
        self._every = system_metrics_every
        self._sampled, self._sampled_step = -float("inf"), -1

    def resume_from(self, step: int) -> None:
        """Announces the step from which a run resumes, before the first `log`; see `MetricsLog.resume_from`."""
        self._log.resume_from(step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs metrics of a step, and from time to time those of the machine."""
        now = time.monotonic()
        # At most once for a step: the evaluation also logs for the last step of training.
        if now - self._sampled >= self._every and step != self._sampled_step:
            self._sampled, self._sampled_step = now, step
            values = {**values, **system_metrics()}
        self._log.metrics(values, step=step)

    def params(self, mapping: Mapping[str, Any]) -> None:
        """Logs settings of the run, by dotted key."""
        self._log.params(mapping)

    def tags(self, mapping: Mapping[str, Any]) -> None:
        """Logs tags of the run."""
        self._log.tags(mapping)

    def artifact(self, path: Path) -> None:
        """Logs a file or folder inside the run folder."""
        self._log.artifact(path)

    def finish(self, status: Status) -> None:
        """Logs the end of the run, after which nothing can be logged, and waits a limited time for MLflow."""
        self._log.status(status)
        self._log.close()
        if self._mirror is not None:
            self._mirror.close()
