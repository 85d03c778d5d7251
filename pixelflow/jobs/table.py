"""job=table: the runs of an experiment as an ablation table, in Markdown, CSV, LaTeX and as a chart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pixelflow.config.job import Config, Job
from pixelflow.errors import UserError
from pixelflow.terminal import say

if TYPE_CHECKING:
    from pixelflow.reporting.runs import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableOptions:
    """Options of job=table.

    Args:
        source: "folders", or "mlflow" for the runs that the tracking server has.
        output: the folder of the table.
        record: true also prints the whole record of every evaluation.
    """

    source: Literal["folders", "mlflow"] = "folders"
    output: str = "experiments/results"
    record: bool = False


def run(config: Config, options: TableOptions, overrides: list[str]) -> None:
    """Writes `<output>/<experiment>.{md,csv,tex,png}` and prints the Markdown."""
    from hydra.core.hydra_config import HydraConfig

    from pixelflow.reporting.folder_reader import read_run_folders
    from pixelflow.reporting.formats import markdown
    from pixelflow.reporting.mlflow_reader import read_mlflow
    from pixelflow.reporting.table import build_table
    from pixelflow.runs.settings import RunSettings
    from pixelflow.sweeps.live_table import swept_keys, write

    settings = RunSettings.of(config)
    if options.source == "mlflow":
        if settings.runs_of != settings.experiment:
            raise UserError(
                f"job.source=mlflow shows all evaluations of runs_of={settings.runs_of}, and not those of "
                f"experiment={settings.experiment}: use job.source=folders"
            )
        runs = read_mlflow(settings.mlflow_uri, settings.experiment)
    else:
        runs = read_run_folders(settings.runs_dir / settings.experiment)
    command = f"python run.py {' '.join(overrides)}"
    axes = config["axes"] or swept_keys(HydraConfig.get().sweeper)
    table = build_table(runs, paper=config["paper"], axes=axes, command=command)
    for path in write(table, Path(options.output), settings.experiment):
        logger.info("wrote %s", path)
    say(markdown(table))
    if options.record:
        say(records(runs))


def records(runs: Sequence[Run]) -> str:
    """Returns the settings behind each number, run by run, as YAML."""
    import yaml

    known = [run for run in runs if run.complete]
    return "\n".join(f"{run.name}\n{yaml.safe_dump({'record': run.record}, sort_keys=False)}" for run in known)


JOB = Job(
    name="table",
    help="the table of an experiment's runs: job=table experiments=digits_kickoff",
    run=run,
    options=TableOptions,
)
