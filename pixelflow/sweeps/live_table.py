"""The table after every sweep. Hydra imports this module before anything else, so its heavy imports are local."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pixelflow.conf_dir import option_files
from pixelflow.terminal import say

if TYPE_CHECKING:
    from pixelflow.reporting.presentation import Presentation
    from pixelflow.reporting.rows import Table


class SweepTable(Callback):
    """A Hydra callback that updates `runs/<experiment>/table.*` during a sweep, and prints the table at its end."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Updates the table after a run of a sweep."""
        if HydraConfig.get().mode == RunMode.MULTIRUN and config.job.name == "pipeline":
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
        from pixelflow.reporting.folder_reader import read_run_folders
        from pixelflow.reporting.table import build_table

        keys = ("axes", "paper", "chart", "question", "settings")
        plain: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, list(keys)), resolve=True)
        presentation = recipe_presentation(plain, config.hydra.sweeper)
        try:
            table = build_table(read_run_folders(self._folder(config)), presentation)
        except ValueError:  # no run is finished yet
            return None
        write(table, self._folder(config), "table")
        return table


def recipe_presentation(config: Mapping[str, Any], sweeper: DictConfig) -> Presentation:
    """Returns what a recipe states about its table and chart.

    Args:
        config: A resolved config.
        sweeper: The recipe's sweep.
    """
    from pixelflow.reporting.presentation import Presentation

    params = sweeper.get("params") or {}
    return Presentation.of(config, swept=params, arms=_swept_arms(params, config.get("settings") or ()))


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
