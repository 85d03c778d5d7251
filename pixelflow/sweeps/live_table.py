"""The table after every sweep. Hydra imports this module before anything else, so its heavy imports are local."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pixelflow.conf_dir import option_files
from pixelflow.terminal import say

if TYPE_CHECKING:
    from pixelflow.reporting.presentation import Presentation
    from pixelflow.reporting.rows import Table


class SweepTable(Callback):
    """A Hydra callback that updates `runs/<experiment>/table.*` during a sweep, and prints the table at its end.

    The table has the runs of this sweep only.
    """

    def __init__(self) -> None:
        self._made: list[tuple[Path, str]] = []
        self._failed: dict[str, str] = {}
        self._typed: list[str] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the keys to which the command line gives several values."""
        typed = OverridesParser.create().parse_overrides([str(entry) for entry in config.hydra.overrides.task])
        self._typed = [override.key_or_group for override in typed if override.is_sweep_override()]

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Updates the table after a run of a sweep."""
        if HydraConfig.get().mode != RunMode.MULTIRUN or config.job.name != "pipeline":
            return
        if job_return.status == JobStatus.COMPLETED:
            folder, evaluation = job_return.return_value
            self._made.append((Path(folder), evaluation))
        else:
            message = (str(job_return._return_value) or type(job_return._return_value).__name__).splitlines()[0]
            self._failed[" ".join(job_return.overrides or ())] = message
        self._table(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the table. The launchers of submitit print that of their own sweep instead."""
        target = config.hydra.launcher._target_
        if target.endswith((".SlurmLauncher", ".LocalLauncher")):
            return
        if config.job.name == "pipeline" and (table := self._table(config)):
            from pixelflow.reporting.formats import markdown

            say(f"\n{markdown(table)}\ntable: {self._folder(config) / 'table.md'} (and .csv, .tex, .png)")

    def _folder(self, config: DictConfig) -> Path:
        return Path(config.runs_dir) / config.experiment

    def _table(self, config: DictConfig) -> Table | None:
        from pixelflow.reporting.folder_reader import read_recipe_runs
        from pixelflow.reporting.runs import Run
        from pixelflow.reporting.table import build_table
        from pixelflow.runs.sharing import borrows

        keys = ("axes", "paper", "chart", "question", "settings", "experiment", "runs_of")
        plain: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, list(keys)), resolve=True)
        presentation = recipe_presentation(plain, config.hydra.sweeper, self._typed)
        folders = list(dict.fromkeys(folder for folder, _ in self._made))
        failed = [Run(name, {}, 0, {}, {}, "failed", None, reason) for name, reason in self._failed.items()]
        try:
            runs = read_recipe_runs(self._folder(config), folders, borrows=borrows(plain), evaluations=self._made)
            table = build_table([*runs, *failed], presentation)
        except ValueError:  # no run is finished yet
            return None
        write(table, self._folder(config), "table")
        return table


def recipe_presentation(config: Mapping[str, Any], sweeper: DictConfig, typed: Sequence[str] = ()) -> Presentation:
    """Returns what a recipe states about its table and chart.

    Args:
        config: A resolved config.
        sweeper: The recipe's sweep.
        typed: The keys that the command line sweeps.
    """
    from pixelflow.reporting.presentation import Presentation

    params, settings = sweeper.get("params") or {}, config.get("settings") or ()
    swept = dict.fromkeys([*params, *(key for setting in settings for key in setting), *typed])
    return Presentation.of(config, swept=swept, arms=_swept_arms(params, settings))


def _swept_arms(params: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms that a sweep lists, in its order. An option of `GROUP@_global_` names its arm in its file."""
    arms = [setting.get("arm") for setting in settings]
    for key, values in params.items():
        group, is_global, _ = key.partition("@_global_")
        files = option_files(group) if is_global else {}
        for option in str(values).split(","):
            if option.strip() in files:
                content = yaml.safe_load(files[option.strip()].read_text(encoding="utf-8"))
                arms.append(content.get("arm") if isinstance(content, dict) else None)
    return [str(arm) for arm in dict.fromkeys(arms) if arm is not None]


def write(table: Table, folder: Path, stem: str) -> list[Path]:
    """Writes `STEM.{md,csv,tex,png}` to `folder` and returns the paths."""
    from pixelflow.reporting.formats import write_table
    from pixelflow.reporting.metric_chart import metric_chart

    return [*write_table(table, folder, stem), metric_chart(table, folder / f"{stem}.png")]
