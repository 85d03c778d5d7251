"""Compares run folders: settings, learning curves, and samples of the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pixelflow.config.build import Config
from pixelflow.config.schema import trusted
from pixelflow.errors import UserError
from pixelflow.files import writing
from pixelflow.loading import load
from pixelflow.reporting.figures import loss_curve
from pixelflow.reporting.runs import read_mapping
from pixelflow.reporting.side_by_side import as_columns, differences, samples_picture
from pixelflow.runs.identity import file_name
from pixelflow.terminal import say
from pixelflow.tracking.jsonl import history

CLASSES, LINES = 10, 3
"""Images in a line, one for each of the first classes, and lines with noise of their own."""


def compare(config: Config, folders: Sequence[Path], output: Path) -> None:
    """Prints the keys whose values differ, and draws what `learning_curves` and `samples` draw.

    Args:
        config: The resolved config of the command.
        folders: The run folders.
        output: The folder below which the pictures are written.
    """
    names = _names(folders)
    found = differences([read_mapping(folder / "config.yaml") for folder in folders])
    say(as_columns(found, ["key", *names]) if found else "the settings of the runs are equal")
    target = output / file_name("_and_".join(folder.absolute().name for folder in folders))
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    say()
    for what, draw in (("learning curves", learning_curves), ("samples", samples)):
        try:
            say(f"{what}: {draw(config, dict(zip(names, folders, strict=True)), target)}")
        except ValueError as error:  # a run that has just begun has no losses and no checkpoint
            say(f"{what}: none, {error}")


def learning_curves(config: Config, runs: dict[str, Path], folder: Path) -> Path:
    """Draws the loss of all runs in one chart."""
    files = {name: run / "metrics.jsonl" for name, run in runs.items()}
    histories = {name: history(file).get("loss", []) if file.exists() else [] for name, file in files.items()}
    return loss_curve(histories, folder / "loss.png")


def samples(config: Config, runs: dict[str, Path], folder: Path) -> Path:
    """Draws samples of all runs with the same noise and classes, by the solver and guidance of each run.

    Raises:
        UserError: A run has no checkpoint.
    """
    models = {}
    for name, run in runs.items():
        models[name] = load(run, device=config["trainer"]["device"], trust=trusted(config))
    labels = list(range(min(CLASSES, *(model.num_classes for model in models.values()))))
    images = {}
    for name, model in models.items():
        drawn = model.sample(labels, num_images=LINES * len(labels), seed=config["sampler"]["seed"])
        images[name] = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    return samples_picture(images, labels, folder / "samples.png")


def _names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders, with those of their experiments if they are not distinct."""
    paths = [folder.absolute() for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError("runs names a folder twice")
    for depth in (1, 2, 3):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
