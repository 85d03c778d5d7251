"""job=table: an experiment's runs as an ablation table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig

from pixelflow.config.build import Config
from pixelflow.reporting.formats import markdown
from pixelflow.reporting.runs import Run, read_mlflow, read_run_folders
from pixelflow.reporting.table import build_table
from pixelflow.runs.context import tracking_uri
from pixelflow.sweeps.live_table import swept_keys, write

logger = logging.getLogger(__name__)


def run(config: Config, overrides: list[str]) -> None:
    """Write `<output>/<experiment>.{md,csv,tex,png}` and print the Markdown."""
    experiment = config["experiment"]
    if config["job"]["source"] == "mlflow":
        runs = read_mlflow(tracking_uri(config), experiment)
    else:
        runs = read_run_folders(Path(config["runs_dir"]) / experiment)
    command = f"python run.py {' '.join(overrides)}"
    axes = config["axes"] or swept_keys(HydraConfig.get().sweeper)
    table = build_table(runs, paper=config["paper"], axes=axes, command=command)
    for path in write(table, Path(config["job"]["output"]), experiment):
        logger.info("wrote %s", path)
    print(markdown(table))
    if config["job"]["record"]:
        print(records(runs))


def records(runs: Sequence[Run]) -> str:
    """How each number came about, run by run."""
    known = [run for run in runs if run.complete]
    return "\n".join(f"{run.name}\n{yaml.safe_dump({'record': run.record}, sort_keys=False)}" for run in known)
