"""job=pipeline: train, sample, evaluate, and print the table of the run. What exists already is not repeated."""

from __future__ import annotations

from typing import Any

from pixelflow.config.job import Config, Job


def run(config: Config, options: Any, overrides: list[str]) -> Any:
    """Runs training, sampling and evaluation in one run folder; returns what the table of a sweep needs to find it."""
    from pixelflow.workflows.run_pipeline import run_pipeline  # torch: seconds

    return run_pipeline(config, overrides)


JOB = Job(
    name="pipeline",
    help="train, sample, evaluate and print the table (the default)",
    run=run,
    needs=frozenset({"model", "data", "metrics"}),
    makes_run_folder=True,
    submittable=True,
)
