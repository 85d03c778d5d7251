"""job=benchmark_objective: time and FLOPs of a training step, and of the parts of the objective run alone."""

from __future__ import annotations

from pixelflow.benchmarks.options import ObjectiveBenchmarkOptions
from pixelflow.config.job import Config, Job


def run(config: Config, options: ObjectiveBenchmarkOptions, overrides: list[str]) -> None:
    """Prints the costs."""
    from pixelflow.benchmarks.objective_cost import run as work  # torch: seconds

    work(config, options)


JOB = Job(
    name="benchmark_objective",
    help="time and FLOPs of a training step beside those of its parts",
    run=run,
    options=ObjectiveBenchmarkOptions,
    needs=frozenset({"model"}),
)
