"""Builds the parts that a config describes."""

from __future__ import annotations

from pathlib import Path

import torch
from hydra.utils import instantiate

from pixelflow import loading
from pixelflow.assets import COMMAND
from pixelflow.config.job import Config
from pixelflow.errors import UserError
from pixelflow.losses.objective import Objective
from pixelflow.model import Model, Recipe
from pixelflow.sampling.produce import parse_classes
from pixelflow.sampling.settings import SamplerSettings, SampleSet
from pixelflow.training.weights import load_weights


def build_model(config: Config) -> Model:
    """Builds the model of a config, with fresh weights and with its solver and guidance as defaults."""
    backbone = instantiate(config["backbone"])
    return Model(
        backbone=backbone,
        cascade=instantiate(config["cascade"], max_timestep=backbone.max_timestep),
        prediction=instantiate(config["prediction"]),
        conditioning=instantiate(config["conditioning"]),
        channels=config["data"]["channels"],
        solver=instantiate(config["solver"]),
        guidance=instantiate(config["guidance"]),
        settings=sampler_settings(config),
        recipe=Recipe(config),
    )


def sampler_settings(config: Config) -> SamplerSettings:
    """Returns how images are computed, by `sampler` and `trainer.precision` of a config."""
    keys = ("batch_size", "fixed_batch", "cache_every", "compile", "cuda_graphs", "tune_attention")
    return SamplerSettings(precision=config["trainer"]["precision"], **{key: config["sampler"][key] for key in keys})


def sample_set(config: Config) -> SampleSet:
    """Returns the images that `sampler` of a config asks for."""
    sampler = config["sampler"]
    classes = parse_classes(sampler["classes"], config["data"]["num_classes"])
    return SampleSet(sampler["num_samples"], classes, sampler["seed"])


def load_model(config: Config, checkpoint: str | Path, device: torch.device) -> Model:
    """Builds the model of a config and loads the weights that `sampler.weights` names.

    Args:
        config: A resolved config.
        checkpoint: A checkpoint folder.
        device: Device of the weights.

    Returns:
        The model for sampling: in evaluation mode, without gradients.

    Raises:
        CheckpointError: The checkpoint is damaged, or its weights do not fit the config.
    """
    model = build_model(config)
    step = load_weights(model.backbone, checkpoint, config["sampler"]["weights"])
    model.recipe = Recipe(config, step)
    model.backbone.to(device).eval().requires_grad_(False)
    return model


def build_objective(config: Config, model: Model, device: torch.device) -> Objective:
    """With its frozen networks loaded and its trained parts made. Raises ValueError naming a file that is missing."""
    objective: Objective = instantiate(config["objective"])
    bf16 = config["trainer"]["precision"] == "bf16"
    objective.check_backbone(model.backbone)
    width = getattr(model.backbone, "width", None)
    objective.prepare(width=width, assets=assets_root(config), device=device, bf16=bf16)
    return objective


def assets_root(config: Config) -> Path:
    return Path(config["assets"]["root"]).expanduser()


def require_assets(config: Config) -> None:
    """Raise ValueError naming every file that training needs and the assets folder lacks."""
    objective: Objective = instantiate(config["objective"])
    if problems := objective.missing(assets_root(config)):
        told = f"; `{COMMAND}`, with the options of this command, fetches them"
        raise UserError("; ".join(problems) + f"{told} (assets.root={config['assets']['root']})")


def pick_device(name: str) -> torch.device:
    """Returns the device that `trainer.device` names. Raises ValueError for a device that this machine lacks."""
    try:
        return loading.pick_device(name)
    except ValueError as error:
        raise UserError(f"trainer.{error}") from None
