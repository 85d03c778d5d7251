"""The result of a sweep of evaluations: a table, the distance against the guidance scale, and the best setting."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pixelflow.files import write_text
from pixelflow.reporting.curves import guidance_curve
from pixelflow.reporting.escaping import markdown_text
from pixelflow.reporting.formats import markdown, write_table
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.runs import Run, read_evaluation
from pixelflow.reporting.table import Table, build_table
from pixelflow.runs.flat import plain
from pixelflow.runs.places import output_folder
from pixelflow.terminal import say

logger = logging.getLogger(__name__)

GUIDANCE = "guidance.scale"
SEED = "sampler.seed"


class EvaluationSweep(Callback):
    """A Hydra callback that collects runs of job=evaluate and writes `<output>/<experiment>.{md,csv,tex,png}`.

    Evaluations of one setting with different values of sampler.seed are averaged. A run that failed is named below the
    table.

    Args:
        output: The folder that is written.
        axes: The overrides that differ between the settings.
    """

    def __init__(self, *, output: str, axes: list[str]) -> None:
        self.output, self.axes = output, list(axes)
        self.runs: list[Run] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Adds an evaluation."""
        chosen = dict(override.split("=", 1) for override in job_return.overrides or [])
        settings = {axis: _shown(axis, chosen[axis]) for axis in self.axes if axis in chosen}
        seed = int(chosen.get(SEED, 0))
        if any((run.config, run.seed, run.state) == (settings, seed, "finished") for run in self.runs):
            return  # an axis lists a value twice
        name = " ".join(f"{key.split('.')[-1]}={value}" for key, value in settings.items()) or "as trained"
        if job_return.status != JobStatus.COMPLETED:
            self.runs.append(Run(name, settings, seed, {}, {}, "failed", None))
            return
        path: Path = job_return.return_value.path
        found = read_evaluation(path)
        self.runs.append(Run(name, settings, seed, found.metrics, found.record, "finished", None))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes the table and the curve."""
        folder = output_folder(self.output, debug=config.debug, runs_dir=config.runs_dir)
        name = config.experiment
        try:
            table = build_table(
                self.runs,
                Presentation(swept=tuple(self.axes)),
                command=f"python run.py -m experiments={name} checkpoint=...",
            )
        except ValueError as error:
            logger.warning("no table of the sweep: %s", error)
            return
        written = write_table(table, folder, name)
        best = best_setting(table)
        write_text(folder / f"{name}.md", f"{markdown(table)}\n{markdown_text(best)}\n")
        if any(GUIDANCE in run.config for run in self.runs):
            written.append(guidance_curve(self.runs, folder / f"{name}.png", key=GUIDANCE))
        say(f"\n{markdown(table)}\n{best}\nwritten: {', '.join(str(path) for path in written)}")


def best_setting(table: Table) -> str:
    """Returns a line that names the setting with the least distance, as overrides, and what it was chosen from."""
    column = next(column for column in table.columns if column.distance)
    rows = [row for row in table.rows if column.key in row.cells]
    row = min(rows, key=lambda row: row.cells[column.key].mean)
    value = row.cells[column.key].mean
    overrides = " ".join(f"{key}={row.setting.config[key]}" for key in table.axes if key in row.setting.config)
    counts = sorted({len(other.runs) for other in rows})
    each = " to ".join(str(count) for count in (counts[0], counts[-1])[: len(counts)])
    return (
        f"Best: {column.label} {value:.{column.decimals}f} with {overrides or 'the only setting'}; chosen from "
        f"{len(rows)} settings with {each} evaluation{'s' if counts[-1] > 1 else ''} of each, and not repeated"
    )


def _shown(axis: str, value: str) -> Any:
    """The value of an axis in the table; a checkpoint appears by its name, without the paths of the machine."""
    return Path(value).name if axis == "checkpoint" else plain(value)
