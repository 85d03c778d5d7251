"""hydra/launcher=slurm, local and basic, and the sweeper behind `settings` and `seeds`.

Hydra accepts launchers from packages named hydra_plugins only. `register` gives ours such names before Hydra starts,
which needs no second package.
"""

# ruff: noqa: E402  (see Plugins.instance below)
from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins

# Hydra loads the modules of its plugins anew here: a base class that is imported before is not its own any more.
Plugins.instance()

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher as HydraBasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from pixelflow.config.job import FindJob
from pixelflow.config.sweepers import PruningSweeper, expand


class _SweepLauncher(Launcher):
    """Composes and checks all runs of a sweep before the first of them is given away."""

    name = ""
    find_job: FindJob
    """Set by `register`: this layer lies below the jobs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.trials: list[Any] = []
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from pixelflow.config.checked import checked  # torch: seconds
        from pixelflow.sweeps.launch import launch

        setup_globals()
        if self._search():  # hydra-optuna-sweeper writes what it found there
            Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        composed = [self._compose(list(job)) for job in job_overrides]
        axes = list(self.config.axes) or swept(self.config, job_overrides)
        known: set[str] = set()
        named = [
            checked(config, by_axes(overrides, axes), self.name, number, known, self.find_job)
            for number, (config, overrides) in enumerate(composed)
        ]
        results = launch(
            named, axes=axes, launcher=self.name, wait=self._wait(), search=self._search(), trials=self.trials
        )
        return [_job_return(result, list(job)) for result, job in zip(results, job_overrides, strict=False)]

    def _search(self) -> str | None:
        """The name of a search; None for a product."""
        sweeper = self.config.hydra.sweeper
        if sweeper._target_ == "hydra_plugins.pixelflow.SettingsSweeper":
            return None
        return sweeper.get("study_name") or "search"

    def _wait(self) -> bool:
        """What chooses the next trials needs the results of the last."""
        return self._search() is not None

    def _compose(self, overrides: list[str]) -> tuple[DictConfig, list[str]]:
        """As `load_sweep_config`, which takes half a second: for jobs that choose the same groups once for all."""
        from pixelflow.config.resolve import parse

        loader = self.hydra_context.config_loader
        parsed = parse(overrides)
        values = [override for override in parsed if not loader.repository.group_exists(override.key_or_group)]  # type: ignore
        groups = tuple(override.input_line or "" for override in parsed if override not in values)
        if groups not in self._bases:
            base = loader.load_sweep_config(self.config, list(groups))
            HydraConfig.instance().set_config(base)
            with open_dict(base):
                del base["hydra"]
            self._bases[groups] = base
        config = copy.deepcopy(self._bases[groups])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config, overrides


class SlurmLauncher(_SweepLauncher):
    """wait: return when the runs are over rather than when SLURM has them."""

    name = "slurm"

    def __init__(self, wait: bool = False) -> None:
        self.wait = wait

    def _wait(self) -> bool:
        return self.wait or super()._wait()


class LocalLauncher(_SweepLauncher):
    name = "local"

    def _wait(self) -> bool:
        return True


class BasicLauncher(HydraBasicLauncher):
    """Hydra's own takes an interrupted run for a failed one, and starts the next."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from pixelflow.errors import Interrupted

        assert self.config is not None
        if self.config.dry_run:
            raise ValueError("dry_run=true is for hydra/launcher=slurm and local")
        done: list[JobReturn] = []
        for index, overrides in enumerate(job_overrides, initial_job_idx):
            (result,) = super().launch([overrides], index)
            if isinstance(result._return_value, Interrupted):
                raise result._return_value
            done.append(result)
        return done


class JobFailed(ChildProcessError):
    """A run of a sweep is not finished; the message says which and why."""


def _job_return(result: dict[str, Any], overrides: list[str]) -> JobReturn:
    if "error" in result:
        return JobReturn(overrides, status=JobStatus.FAILED, _return_value=JobFailed(result["error"]))
    return JobReturn(overrides, status=JobStatus.COMPLETED, _return_value=result["value"])


class SettingsSweeper(BasicSweeper):
    """Hydra's product of all that is swept, times each of the config's `settings` and `seeds`."""

    def __init__(self, max_batch_size: int | None = None, params: DictConfig | None = None) -> None:
        super().__init__(max_batch_size, params)  # type: ignore[arg-type]

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        (grid,) = BasicSweeper.split_arguments(overrides, None)
        assert self.config is not None
        settings = OmegaConf.to_container(self.config.settings)
        seeds = OmegaConf.to_container(self.config.seeds) if OmegaConf.is_list(self.config.seeds) else self.config.seeds
        jobs = expand(grid, settings, seeds)  # type: ignore[arg-type]
        if max_batch_size is None:
            return [jobs]
        return [jobs[start : start + max_batch_size] for start in range(0, len(jobs), max_batch_size)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Our launchers compose the whole sweep themselves before anything starts: once is enough."""
        if not isinstance(self.launcher, _SweepLauncher):
            super().validate_batch_is_legal(batch)


def swept(config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """The keys by which the sweep's runs differ, in the order of the recipe."""
    values: dict[str, set[str]] = {}
    for override in itertools.chain(*job_overrides):
        key, _, value = override.partition("=")
        values.setdefault(key, set()).add(value)
    missing = {key for key in values if any(not any(o.startswith(f"{key}=") for o in job) for job in job_overrides)}
    named = list(config.hydra.sweeper.get("params") or {})
    return [*named, *(key for key in values if key not in named and (len(values[key]) > 1 or key in missing))]


def by_axes(overrides: Sequence[str], axes: Sequence[str]) -> list[str]:
    """What differs between runs first: a run's name is made of its overrides, and cut."""
    return sorted(overrides, key=lambda override: override.lstrip("+~").partition("=")[0] not in axes)


@dataclass
class _BasicLauncherNode:
    _target_: str = "hydra_plugins.pixelflow.BasicLauncher"


@dataclass
class _SettingsSweeperNode:
    _target_: str = "hydra_plugins.pixelflow.SettingsSweeper"
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None


def register(find_job: FindJob) -> None:
    """Before hydra.main: names that Hydra takes for plugins', and ours in the place of its two defaults.

    A recipe can still say `override /hydra/sweeper: optuna`, which it could not if run.yaml itself chose a sweeper.
    """
    _SweepLauncher.find_job = staticmethod(find_job)
    known = Plugins.instance().class_name_to_class
    for plugin in (SlurmLauncher, LocalLauncher, BasicLauncher, SettingsSweeper, PruningSweeper):
        known[f"hydra_plugins.pixelflow.{plugin.__name__}"] = plugin
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="basic", node=_BasicLauncherNode, provider="pixelflow")
    store.store(group="hydra/sweeper", name="basic", node=_SettingsSweeperNode, provider="pixelflow")
