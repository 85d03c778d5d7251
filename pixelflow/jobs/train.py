"""job=train: train a model, from the beginning or from the run's last checkpoint."""

from __future__ import annotations

from typing import Any

from pixelflow.config.job import Config, Job


def run(config: Config, options: Any, overrides: list[str]) -> None:
    """Trains, and prints the last checkpoint."""
    from pixelflow.workflows.train_run import run_training  # torch: seconds

    run_training(config, overrides)


JOB = Job(
    name="train",
    help="train, or continue from the run's last checkpoint",
    run=run,
    needs=frozenset({"model", "data"}),
    makes_run_folder=True,
    submittable=True,
)
