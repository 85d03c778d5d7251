"""The table after every sweep. Hydra imports this module before anything else, so its heavy imports are local."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pixelflow.terminal import say

if TYPE_CHECKING:
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

        paper: Any = OmegaConf.to_container(config.paper, resolve=True)
        try:
            table = build_table(
                read_run_folders(self._folder(config)),
                paper=paper,
                axes=list(config.axes) or swept_keys(config.hydra.sweeper),
            )
        except ValueError:  # no run is finished yet
            return None
        write(table, self._folder(config), "table")
        return table


def swept_keys(sweeper: DictConfig) -> list[str]:
    """Returns the keys that the recipe's sweep varies: the first columns of its table."""
    return list(sweeper.get("params") or {})


def write(table: Table, folder: Path, stem: str) -> list[Path]:
    """Writes `STEM.{md,csv,tex,png}` to `folder` and returns the paths."""
    from pixelflow.reporting.figures import metric_chart
    from pixelflow.reporting.formats import write_table

    return [*write_table(table, folder, stem), metric_chart(table, folder / f"{stem}.png")]
