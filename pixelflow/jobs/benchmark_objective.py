"""job=benchmark_objective: see `pixelflow.benchmarks.objective_cost`."""

from pixelflow.benchmarks.objective_cost import run

__all__ = ["run"]
