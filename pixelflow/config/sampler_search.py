"""hydra/sweeper=sampler_search: Optuna searches for sampler settings, and the best are evaluated again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from omegaconf import DictConfig, OmegaConf

from pixelflow.config.schema import read_record
from pixelflow.errors import UserError, WorkFailed
from pixelflow.reporting.pareto import letters
from pixelflow.runs.places import output_folder
from pixelflow.sweeps.search import (
    Confirm,
    Repeated,
    Report,
    SearchResult,
    Trial,
    candidates,
    fresh_seeds,
    read_trial,
    write_report,
)

KEY = "hydra.sweeper"
OF_THE_MACHINE = ("checkpoint=", "runs_dir=", f"{KEY}.report.output=", "hydra.mode=", "hydra.sweep.dir=")
"""Overrides that the published command does not show."""


class SamplerSearch(Sweeper):
    """hydra-optuna-sweeper, followed by evaluations of its best settings with other noise.

    The proposals of a seeded sampler depend only on the results of earlier trials, and an evaluation that exists is not
    repeated. The same command therefore continues after an interruption, without a storage.

    Args:
        confirm: See `pixelflow.sweeps.search.Confirm`.
        report: See `pixelflow.sweeps.search.Report`.
        **arguments: The arguments of hydra-optuna-sweeper.

    Raises:
        UserError: A key of `confirm` or `report` is unknown or has a wrong value.
    """

    def __init__(self, confirm: DictConfig, report: DictConfig, **arguments: Any) -> None:
        self.confirm = read_record(Confirm, _plain(confirm), f"{KEY}.confirm")
        self.report = read_record(Report, _plain(report), f"{KEY}.report")
        self.sweeper = OptunaSweeper(**arguments).sweeper
        self.trials: dict[tuple[str, ...], Trial] = {}
        self.failed: list[str] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepares the search.

        Raises:
            UserError: The job is not evaluate, there is no checkpoint, or the launcher is not basic.
        """
        if config.job.name != "evaluate" or config.checkpoint is None:
            raise UserError("hydra/sweeper=sampler_search needs job=evaluate and checkpoint=PATH")
        if config.hydra.launcher._target_ != "hydra_plugins.pixelflow.BasicLauncher":
            raise UserError("hydra/sweeper=sampler_search needs hydra/launcher=basic")
        self.config = config
        self.sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.launch, self.sweeper.launcher.launch = self.sweeper.launcher.launch, self._launch  # type: ignore

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the search and the repetitions, and writes the result.

        Raises:
            WorkFailed: No trial was finished.
            UserError: A trial cannot be evaluated because of a mistake in the command.
            Interrupted: An evaluation was interrupted. The same command continues.
        """
        assert self.config is not None
        self.sweeper.sweep(arguments)
        if not self.trials:
            reason = f": {self.failed[0]}" if self.failed else ""
            raise WorkFailed(f"no trial of the search was finished{reason}")
        trials = list(self.trials.values())
        seeds = fresh_seeds(trials, self.confirm.seeds)
        repeated = self._repeat(candidates(trials, self.confirm.candidates), seeds)
        typed = [*self.config.hydra.overrides.hydra, *self.config.hydra.overrides.task]
        shown = [override for override in typed if not override.startswith(OF_THE_MACHINE)]
        command = f"python run.py -m {shlex.join([f'experiments={self.config.experiment}', *_others(shown)])}"
        folder = output_folder(self.report.output, debug=self.config.debug, runs_dir=self.config.runs_dir)
        write_report(
            SearchResult(
                self.config.experiment, f"{command} checkpoint=...", trials, repeated, seeds,
                self.confirm.num_samples, self.failed,
            ),
            replace(self.report, output=str(folder)),
        )  # fmt: skip

    def _launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Evaluates trials for Optuna, and keeps their results."""
        done = self.launch(job_overrides, initial_job_idx=initial_job_idx)
        for overrides, job in zip(job_overrides, done, strict=True):
            if trial := self._result(overrides, job):
                self.trials.setdefault(tuple(overrides), trial)
        return done

    def _repeat(self, chosen: Sequence[Trial], seeds: Sequence[int]) -> list[Repeated]:
        """Evaluates each candidate with each seed. One with a repetition that fails is left out."""
        overrides_of = {id(trial): overrides for overrides, trial in self.trials.items()}
        trials = list(self.trials.values())
        named = dict(zip(map(id, trials), letters([trial.point("") for trial in trials]), strict=True))
        jobs = [
            [*_without(overrides_of[id(trial)], "sampler.seed", "sampler.num_samples"),
             f"sampler.num_samples={self.confirm.num_samples}", f"sampler.seed={seed}"]
            for trial in chosen for seed in seeds
        ]  # fmt: skip
        done = self.launch(jobs, initial_job_idx=self.sweeper.job_idx)
        results = [self._result(overrides, job) for overrides, job in zip(jobs, done, strict=True)]
        repeated = []
        for number, trial in enumerate(chosen):
            again = results[number * len(seeds) : (number + 1) * len(seeds)]
            distances = tuple(result.distance for result in again if result is not None)
            if len(distances) == len(seeds):
                repeated.append(Repeated(trial, named[id(trial)], distances))
        return repeated

    def _result(self, overrides: Sequence[str], job: JobReturn) -> Trial | None:
        """Returns the result of an evaluation, or None if it failed; a job without a number becomes a failed one.

        Raises:
            UserError: The command has a mistake.
        """
        if job.status == JobStatus.COMPLETED:
            trial = read_trial(overrides, job.return_value.path, self.report.keys)
            if math.isfinite(trial.distance):
                return trial
            job.status, job.return_value = JobStatus.FAILED, WorkFailed(f"the distance is {trial.distance}")
        error = job._return_value
        if isinstance(error, UserError):
            raise error
        chosen = " ".join(o for o in overrides if o.partition("=")[0] in (*self.report.keys, "sampler.seed"))
        self.failed.append(f"{chosen}: {error}")
        return None


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _without(overrides: Sequence[str], *keys: str) -> list[str]:
    return [override for override in overrides if override.partition("=")[0] not in keys]


def _others(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith("experiments=")]
