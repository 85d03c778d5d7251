"""job=benchmark: see `pixelflow.benchmarks.sampling_cost`."""

from pixelflow.benchmarks.sampling_cost import run

__all__ = ["run"]
