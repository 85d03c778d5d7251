"""The commands `pixelflow` and `pixelflow-evaluate`. Ctrl-C while they start ends them without a traceback."""

from __future__ import annotations

from pixelflow.signals import ending_at_once


def run() -> None:
    """Runs `python run.py` and the console script `pixelflow`."""
    _start("run")


def evaluate() -> None:
    """Runs `python evaluate.py` and the console script `pixelflow-evaluate`."""
    _start("evaluate")


def _start(config_name: str) -> None:
    with ending_at_once():
        from pixelflow.cli import main  # Hydra: a second

    main(config_name)
