"""job=benchmark_data: this package's loader beside torchvision's ImageFolder, at the same transform, on made JPEGs."""

from __future__ import annotations

from pixelflow.benchmarks.options import DataBenchmarkOptions
from pixelflow.config.job import Config, Job


def run(config: Config, options: DataBenchmarkOptions, overrides: list[str]) -> None:
    """Writes `options.output` and prints it."""
    from pixelflow.benchmarks.data_loading import run as work  # torch: seconds

    work(options)


JOB = Job(name="benchmark_data", help="the data loader beside torchvision's", run=run, options=DataBenchmarkOptions)
