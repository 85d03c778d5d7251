"""From the composed configs of a sweep to requests: every run is resolved and checked before one is submitted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pixelflow.config.accepted import Accepted
from pixelflow.config.build import require_assets
from pixelflow.config.job import Config, FindJob
from pixelflow.config.resolve import resolve
from pixelflow.config.same_data import check_same_data
from pixelflow.config.validate import check_data
from pixelflow.config.validate_training import check_step
from pixelflow.errors import UserError
from pixelflow.reporting.presentation import Presentation
from pixelflow.runs.context import run_path
from pixelflow.runs.identity import config_hash, evaluation_hash, own_evaluation
from pixelflow.runs.settings import RunSettings
from pixelflow.sweeps.devices import requested
from pixelflow.sweeps.plan import TRAIN
from pixelflow.sweeps.requests import RunRequest, SweepRequest
from pixelflow.sweeps.site import Site


class RunRequests:
    """Makes the requests of a sweep's runs. What several runs share is checked once.

    Args:
        launcher: `"slurm"` or `"local"`.
        find_job: Returns the declaration of a job.
    """

    def __init__(self, launcher: str, find_job: FindJob) -> None:
        self.launcher, self.find_job = launcher, find_job
        self._accepted = Accepted()
        self._data: dict[str, dict[str, Any]] = {}
        self._roots: dict[str, Any] = {}
        self._trained_by: dict[str, Config] = {}

    def make(self, number: int, config: DictConfig, overrides: list[str]) -> RunRequest:
        """Returns the request of run `number` of the sweep.

        Raises:
            UserError: The config is invalid, its data or weights are missing, or its job cannot be submitted.
        """
        try:
            return self._make(config, overrides)
        except ValueError as error:
            raise UserError(f"run {number} ({' '.join(overrides)}): {error}; nothing was submitted") from None

    def _make(self, config: DictConfig, overrides: list[str]) -> RunRequest:
        job = self.find_job(config.job.name)
        site = config.site
        elsewhere = self.launcher == "slurm" and bool(
            site.get("gpus_per_node")
            or requested(str(site.get("gres") or ""))
            or any(str(key).startswith("gpus") for key in site.get("additional_parameters") or ())
        )
        resolved = resolve(config, overrides, job, elsewhere=elsewhere, accepted=self._accepted)
        if not job.submittable:
            raise UserError(f"job={job.name} cannot be submitted: leave hydra/launcher out")
        read = ("data", "metrics", "assets", "sampler", "samples", "checkpoint", "runs_dir")
        if not self._accepted.again(job.name, *(resolved[key] for key in read)):
            check_data(resolved, job)
        if job.makes_run_folder:
            if not self._accepted.again("assets", resolved["objective"], resolved["assets"]):
                require_assets(resolved)
            self._check_roots(resolved)
            path = run_path(resolved, overrides)
            check_step(resolved, path, self._trained_by.setdefault(config_hash(resolved), resolved))
            check_same_data(resolved, path, self._data)
        resolved["runs_dir"] = str(Path(resolved["runs_dir"]).absolute())
        evaluates = job.name != TRAIN
        digest = config_hash(resolved) + (evaluation_hash(resolved) if evaluates else "")
        inputs = json.dumps([digest, resolved["checkpoint"], resolved["samples"], resolved["job"]], sort_keys=True)
        return RunRequest(
            config=resolved, overrides=overrides, job=job.name, makes_run=job.makes_run_folder, digest=digest,
            evaluation=own_evaluation(resolved) if evaluates and job.makes_run_folder else None,
            task_digest=hashlib.sha256(inputs.encode()).hexdigest()[:8],
            max_steps=resolved["trainer"]["max_steps"] if job.makes_run_folder else 0,
        )  # fmt: skip

    def _check_roots(self, config: Config) -> None:
        """Refuses runs that differ in data.root only: they would be one run."""
        root = config["data"].get("root")
        other = self._roots.setdefault(config_hash(config), root)
        if other != root:
            raise UserError(
                f"data.root={root} does not make another run than data.root={other}: submit them one after the other, "
                "each with its own experiment=NAME"
            )


def sweep_request(
    config: Config, *, swept: list[str], arms: Sequence[str], launcher: str, entry: str, **how: Any
) -> SweepRequest:
    """Returns the request of a sweep.

    Args:
        config: The resolved config of its first run.
        swept: The config keys that the sweep varies.
        arms: The arms of its runs, in their order.
        launcher: `"slurm"` or `"local"`.
        entry: The module that runs one frozen job.
        **how: `wait` and `search` of the request.

    Raises:
        UserError: A setting of the site is unknown or out of range.
    """
    settings = {key: value for key, value in config["site"].items() if key != "_target_"}
    try:
        site = Site(**settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"site: {error}") from None
    run = RunSettings.of(config)
    return SweepRequest(
        experiment=run.experiment, runs_dir=run.runs_dir.absolute(),
        folder=Path(config["sweep"]).absolute() if config["sweep"] else None,
        presentation=Presentation.of(config, swept=swept, arms=arms), site=site, launcher=launcher, entry=entry,
        dry_run=config["dry_run"],
        mlflow_uri=run.mlflow_uri if run.tracking.mlflow else None, runs_of=run.runs_of, **how,
    )  # fmt: skip
