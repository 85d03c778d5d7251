"""The result of a search over sampler settings: each trial's distance and seconds, and the Pareto front."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pixelflow.files import write_json, write_text
from pixelflow.reporting.escaping import markdown_text
from pixelflow.reporting.pareto import Point, quality_chart, quality_table
from pixelflow.terminal import say

logger = logging.getLogger(__name__)


class SearchChart(Callback):
    """A Hydra callback that collects the trials of a search and writes `<output>/<experiment>.{json,md,png}`.

    A trial is a run of job=evaluate, which returns the distance and the seconds per image.

    Args:
        output: The folder that is written.
        keys: The overrides that differ between trials; they label the points of the chart.
        series: The one of them that selects the colour of a point.
    """

    def __init__(self, *, output: str, keys: list[str], series: str) -> None:
        self.output, self.keys, self.series = output, list(keys), series
        self.points: list[Point] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Adds a finished trial."""
        if job_return.status != JobStatus.COMPLETED:
            return
        distance, seconds = job_return.return_value
        chosen = dict(override.split("=", 1) for override in job_return.overrides or [])
        label = " ".join(f"{key.split('.')[-1]}={_short(chosen[key])}" for key in self.keys if key in chosen)
        self.points.append(Point(label, chosen.get(self.series, ""), 1e3 * seconds, distance))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes table, points and chart."""
        folder, name = Path(self.output), config.experiment
        if not self.points:
            logger.warning("no trial of the search was finished")
            return
        cost, quality = "ms per image", "distance to the reference"
        table = quality_table(self.points, cost=cost, quality=quality)
        write_text(folder / f"{name}.md", f"# {markdown_text(name)}: {len(self.points)} trials\n\n{table}")
        write_json(folder / f"{name}.json", [vars(point) for point in self.points])
        quality_chart(self.points, folder / f"{name}.png", cost=cost, quality=quality)
        say(f"\n{table}\nwritten: {folder / name}.md, .json and .png")


def _short(value: str) -> str:
    """A number with four digits: "1.2345678" becomes "1.235"."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value
