"""job=benchmark_metrics: see `pixelflow.benchmarks.evaluation_cost`."""

from pixelflow.benchmarks.evaluation_cost import run

__all__ = ["run"]
