"""job=benchmark_metrics: the cost of metrics beside the feature network's forward passes."""

from __future__ import annotations

from pixelflow.benchmarks.options import MetricsBenchmarkOptions
from pixelflow.config.job import Config, Job


def run(config: Config, options: MetricsBenchmarkOptions, overrides: list[str]) -> None:
    """Writes `options.output` and prints it."""
    from pixelflow.benchmarks.evaluation_cost import run as work  # torch: seconds

    work(config, options)


JOB = Job(
    name="benchmark_metrics",
    help="an evaluation beside its forward passes: metrics=imagenet metrics.features.file=null",
    run=run,
    options=MetricsBenchmarkOptions,
)
