"""The request of a launcher: a sweep and its runs. The layer above builds it from configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.reporting.presentation import Presentation
from pixelflow.sweeps.manifest import sweep_digest
from pixelflow.sweeps.site import Site


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A run of a sweep.

    Args:
        config: The resolved, valid config.
        overrides: The overrides; those of the sweep's axes come first, because a run is named by them.
        job: The job that is executed.
        makes_run: Whether the job trains in a run folder of its own.
        digest: The hash of the settings that determine the result.
        evaluation: The evaluation that the job makes, as a path in the run folder; None for a job that makes none.
        task_digest: The hash of the config and its inputs, which names the task of a job that makes no run.
        max_steps: The number of training steps; 0 for a job that does not train.
    """

    config: Mapping[str, Any]
    overrides: list[str]
    job: str
    makes_run: bool
    digest: str
    evaluation: str | None
    task_digest: str
    max_steps: int


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """A sweep and how it is executed.

    Args:
        experiment: The name of the experiment.
        runs_of: The name of the experiment that the runs belong to; None for the same.
        runs_dir: The absolute folder of all experiments.
        folder: The folder of the sweep; None for one that is named by the runs.
        presentation: What the recipe states about the table and the chart.
        site: The queue settings.
        launcher: `"slurm"` or `"local"`.
        entry: The module that runs one frozen job, as `python -m ENTRY FILE`.
        dry_run: Whether the plan is shown and nothing is submitted.
        wait: Whether to return only when the runs are over.
        search: The name of a search, which submits one trial after the other to the same folder; None for a product.
        mlflow_uri: Where the runs are tracked; None without MLflow.
    """

    experiment: str
    runs_dir: Path
    folder: Path | None
    presentation: Presentation
    site: Site
    launcher: str
    entry: str
    dry_run: bool
    wait: bool
    search: str | None
    mlflow_uri: str | None
    runs_of: str | None = None

    @property
    def experiment_folder(self) -> Path:
        """The folder of the experiment."""
        return self.runs_dir / self.experiment

    @property
    def runs_folder(self) -> Path:
        """The folder of the experiment that the runs belong to."""
        return self.runs_dir / (self.runs_of or self.experiment)

    def digest(self, runs: list[RunRequest]) -> str:
        """Returns the hash that names the sweep of these runs."""
        return sweep_digest([self.search] if self.search else [run.digest + run.job for run in runs])
