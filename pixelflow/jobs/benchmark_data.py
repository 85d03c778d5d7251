"""job=benchmark_data: see `pixelflow.benchmarks.loading`."""

from pixelflow.benchmarks.loading import run

__all__ = ["run"]
