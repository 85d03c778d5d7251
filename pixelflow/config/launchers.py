"""hydra/launcher=submitit_slurm, submitit_local and basic, and the sweeper behind `settings` and `seeds`.

Hydra accepts launchers only from packages named hydra_plugins. `register` gives these classes such names before Hydra
starts, which needs no second package.
"""

# ruff: noqa: E402  (see Plugins.instance below)
from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins

# Hydra loads the modules of its plugins anew here. A base class that was imported before would be another class.
Plugins.instance()

from hydra._internal.core_plugins.basic_launcher import BasicLauncher as HydraBasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig, OmegaConf, open_dict

from pixelflow.config.composing import SETTINGS_SWEEPER, Composer
from pixelflow.config.job import FindJob
from pixelflow.config.sampler_search import SamplerSearch
from pixelflow.config.sweepers import PruningSweeper, expand
from pixelflow.errors import Interrupted, UserError, WorkFailed
from pixelflow.runs.places import check_writable
from pixelflow.sweeps.site import Site

_SITE_NAMES = {"max_num_timeout": "max_restarts"}
"""Settings of hydra-submitit-launcher that have another name in a site."""
_SBATCH_OPTIONS = {
    "name": "job-name", "comment": "comment", "gpus_per_task": "gpus-per-task", "cpus_per_gpu": "cpus-per-gpu",
    "mem_per_cpu": "mem-per-cpu", "mem_per_gpu": "mem-per-gpu",
}  # fmt: skip
"""Settings of hydra-submitit-launcher that a site does not name, as options of sbatch."""


class _SweepLauncher(BaseSubmititLauncher):
    """Composes and checks all runs of a sweep before the first of them is submitted.

    The jobs are those of `pixelflow.sweeps`: configs that were resolved at submission, rather than overrides that are
    composed again when a job starts.
    """

    name = ""
    find_job: FindJob
    """Set by `register`, as is `entry`: this layer lies below the jobs and below the program that runs one."""
    entry: str

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.trials: list[Any] = []
        self._composer: Composer | None = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits the runs of a sweep, or of one batch of a search.

        Returns:
            One result per run if the launcher waits for them; otherwise none.

        Raises:
            UserError: A run is invalid, or the sweep cannot be submitted.
        """
        from pixelflow.config.sweep_requests import RunRequests, sweep_request  # imports torch
        from pixelflow.sweeps.launch import launch

        setup_globals()
        if self._search():  # hydra-optuna-sweeper writes its result there
            Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        varied = swept(self.config, job_overrides)
        axes = list(self.config.axes) or varied
        composed = [self._compose(list(job)) for job in job_overrides]
        requests = RunRequests(self.name, self.find_job)
        runs = [
            requests.make(n, config, by_axes(list(job), axes))
            for n, (config, job) in enumerate(zip(composed, job_overrides, strict=True))
        ]
        arms = list(dict.fromkeys(str(run.config["arm"]) for run in runs if run.config["arm"] is not None))
        request = sweep_request(
            runs[0].config, swept=varied, arms=arms, launcher=self.name, entry=self.entry, wait=self._wait(),
            search=self._search(),
        )  # fmt: skip
        results = launch(request, runs, self.trials)
        return [_job_return(result, list(job)) for result, job in zip(results, job_overrides, strict=False)]

    def _search(self) -> str | None:
        """The name of a search; None for a product."""
        sweeper = self.config.hydra.sweeper
        if sweeper._target_ == SETTINGS_SWEEPER:
            return None
        return sweeper.get("study_name") or "search"

    def _wait(self) -> bool:
        """Returns whether `launch` waits for results. A search needs those of its trials before it chooses the next."""
        return self._search() is not None

    def _queue_settings(self) -> dict[str, Any]:
        """The launcher's settings that differ from the site's, as settings of a site."""
        assert self.config is not None
        if self.params["submitit_folder"] or not self.params["stderr_to_stdout"]:
            raise UserError(
                "hydra.launcher: submitit_folder and stderr_to_stdout cannot be changed; sweep=PATH moves all files"
            )
        site: Any = OmegaConf.to_container(self.config.site, resolve=True)
        given = {_SITE_NAMES.get(key, key): value for key, value in self.params.items()}
        options = given.pop("additional_parameters", {})
        options |= {name: given[key] for key, name in _SBATCH_OPTIONS.items() if given.get(key) is not None}
        if options.get("job-name") == self.config.experiment:
            del options["job-name"]
        changed = {key: value for key, value in given.items() if key in site and value != site[key]}
        return changed | ({"additional_parameters": site["additional_parameters"] | options} if options else {})

    def _compose(self, overrides: list[str]) -> DictConfig:
        assert self.config is not None
        self._composer = self._composer or Composer(self.hydra_context.config_loader, self.config)
        config = self._composer.compose(overrides)
        with open_dict(config):
            config.site.update(self._queue_settings())
        return config


class SlurmLauncher(_SweepLauncher):
    """Submits the runs of a sweep to SLURM.

    Args:
        wait: Whether to return when the runs are over rather than when SLURM has accepted them.
        **settings: Queue settings of hydra-submitit-launcher.
    """

    name = "slurm"

    def __init__(self, wait: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.wait = wait

    def _wait(self) -> bool:
        return self.wait or super()._wait()


class LocalLauncher(_SweepLauncher):
    """Executes the runs of a sweep as processes of this machine."""

    name = "local"

    def _wait(self) -> bool:
        return True


class BasicLauncher(HydraBasicLauncher):
    """Hydra's own launcher, except that an interrupted run ends the sweep instead of counting as a failure."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Executes the runs one after the other in this process.

        Raises:
            Interrupted: A run was interrupted and has saved.
            UserError: dry_run=true, which only the other launchers support.
        """
        assert self.config is not None
        if self.config.dry_run:
            raise UserError("dry_run=true needs hydra/launcher=submitit_slurm or submitit_local")
        done: list[JobReturn] = []
        for index, overrides in enumerate(job_overrides, initial_job_idx):
            (result,) = super().launch([overrides], index)
            if isinstance(result._return_value, Interrupted):
                raise result._return_value
            done.append(result)
        return done


def _job_return(result: dict[str, Any], overrides: list[str]) -> JobReturn:
    if "error" in result:
        return JobReturn(overrides, status=JobStatus.FAILED, _return_value=WorkFailed(result["error"]))
    return JobReturn(overrides, status=JobStatus.COMPLETED, _return_value=result["value"])


class SettingsSweeper(BasicSweeper):
    """Hydra's product of the swept values, times each of the config's `settings` and `seeds`.

    Args:
        max_batch_size: The number of runs that are launched together; None for all.
        params: The sweep of the recipe, as Hydra's basic sweeper takes it.
    """

    def __init__(self, max_batch_size: int | None = None, params: DictConfig | None = None) -> None:
        if max_batch_size is not None and max_batch_size < 1:
            raise UserError(f"hydra.sweeper.max_batch_size={max_batch_size} must be at least 1")
        super().__init__(max_batch_size, params)  # type: ignore[arg-type]

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the sweep. Hydra makes a folder below runs_dir first, which is removed if the sweep is refused.

        Raises:
            UserError: runs_dir cannot be written, the sweep has no runs, or a run is invalid.
        """
        assert self.config is not None
        check_writable(str(self.config.runs_dir), "runs_dir")
        folder = Path(str(self.config.hydra.sweep.dir))
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            return super().sweep(arguments)
        except UserError:
            _remove_unused(new)
            raise

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        """Returns the batches of the sweep; a batch is a list of runs, a run is a list of overrides."""
        (grid,) = BasicSweeper.split_arguments(overrides, None)
        assert self.config is not None
        settings, seeds = (
            OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for value in (self.config.settings, self.config.seeds)
        )
        jobs = expand(grid, settings, seeds)  # type: ignore[arg-type]
        if not jobs:
            raise UserError("the sweep has no runs: one of its keys has no values, as in range(1, 1)")
        if max_batch_size is None:
            return [jobs]
        return [jobs[start : start + max_batch_size] for start in range(0, len(jobs), max_batch_size)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Composes all runs, except for launchers that do so themselves before anything starts."""
        if not isinstance(self.launcher, _SweepLauncher):
            super().validate_batch_is_legal(batch)


def _remove_unused(new: Sequence[Path]) -> None:
    """Removes the folders `new`, innermost first, if they hold nothing but the file that Hydra writes there."""
    with suppress(OSError):  # a folder that holds something
        for path in new:
            if [inside.name for inside in path.iterdir()] == ["multirun.yaml"]:
                (path / "multirun.yaml").unlink()
            path.rmdir()


def swept(config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Returns the keys by which the sweep's runs differ, those of the recipe first, in its order."""
    values: dict[str, set[str]] = {}
    for override in itertools.chain(*job_overrides):
        key, _, value = override.partition("=")
        values.setdefault(key, set()).add(value)
    missing = {key for key in values if any(not any(o.startswith(f"{key}=") for o in job) for job in job_overrides)}
    named = list(config.hydra.sweeper.get("params") or {})
    return [*named, *(key for key in values if key not in named and (len(values[key]) > 1 or key in missing))]


def by_axes(overrides: Sequence[str], axes: Sequence[str]) -> list[str]:
    """Returns the overrides with those of the axes first. A run is named by its overrides, and the name is cut."""
    return sorted(overrides, key=lambda override: override.lstrip("+~").partition("=")[0] not in axes)


@dataclass
class _BasicLauncherNode:
    _target_: str = "hydra_plugins.pixelflow.BasicLauncher"


def _node(stock: type, target: str, **ours: Any) -> type:
    """The queue settings of hydra-submitit-launcher. Those that a site has as well have their defaults from there."""
    shared = ({known.name for known in fields(Site)} & {known.name for known in fields(stock)}) - {
        "additional_parameters"
    }
    defaults: dict[str, Any] = {name: f"${{site.{name}}}" for name in shared}
    defaults |= {"_target_": f"hydra_plugins.pixelflow.{target}", "name": "${experiment}", "submitit_folder": ""}
    defaults |= {"stderr_to_stdout": True, **ours}
    types = {known.name: known.type for known in fields(stock)} | {"tasks_per_node": int | None, "wait": bool}
    return make_dataclass(
        target, [(name, types[name], field(default=defaults[name])) for name in defaults], bases=(stock,)
    )


@dataclass
class _SettingsSweeperNode:
    _target_: str = SETTINGS_SWEEPER
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None


def register(find_job: FindJob, *, entry: str) -> None:
    """Registers launchers and sweepers with Hydra. Call it before `hydra.main`.

    The launchers of submitit replace those of hydra-submitit-launcher, under their names.

    The launcher and the sweeper `basic` replace Hydra's two defaults. A recipe can still select
    `override /hydra/sweeper: optuna`, which it could not if run.yaml itself selected a sweeper.

    Args:
        find_job: Returns the declaration of a job.
        entry: The module that runs one frozen job, as `python -m ENTRY FILE`.
    """
    _SweepLauncher.find_job = staticmethod(find_job)
    _SweepLauncher.entry = entry
    known = Plugins.instance().class_name_to_class
    for plugin in (SlurmLauncher, LocalLauncher, BasicLauncher, SettingsSweeper, PruningSweeper, SamplerSearch):
        known[f"hydra_plugins.pixelflow.{plugin.__name__}"] = plugin
    store = ConfigStore.instance()
    slurm = {"max_num_timeout": "${site.max_restarts}", "wait": False}  # every kind of restart counts
    nodes = {
        "basic": _BasicLauncherNode,
        "submitit_slurm": _node(SlurmQueueConf, "SlurmLauncher", **slurm),
        "submitit_local": _node(LocalQueueConf, "LocalLauncher"),
    }
    for name, node in nodes.items():
        store.store(group="hydra/launcher", name=name, node=node, provider="pixelflow")
    store.store(group="hydra/sweeper", name="basic", node=_SettingsSweeperNode, provider="pixelflow")
