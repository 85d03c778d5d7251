"""Builds the parts that a config describes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pixelflow import loading
from pixelflow.assets import COMMAND
from pixelflow.config.job import Config
from pixelflow.config.schema import build, trusted
from pixelflow.config.sections import read_assets, read_sampler
from pixelflow.errors import UserError
from pixelflow.losses.objective import Objective
from pixelflow.model import Model, Recipe
from pixelflow.nn.flops import stage_flops
from pixelflow.sampling.settings import SamplerSettings, SampleSet
from pixelflow.training.fitting import of_stored_config, without_memory
from pixelflow.training.reader import read_state
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.weights import load_backbone


def build_model(config: Config, backbone: nn.Module | None = None) -> Model:
    """Builds the model of a config, with its solver and guidance as defaults.

    Args:
        config: A resolved config.
        backbone: The backbone; by default one with fresh weights.
    """
    backbone = build(config, "backbone") if backbone is None else backbone
    return Model(
        backbone=backbone,
        cascade=build(config, "cascade", max_timestep=backbone.max_timestep),
        prediction=build(config, "prediction"),
        conditioning=build(config, "conditioning"),
        channels=config["data"]["channels"],
        solver=build(config, "solver"),
        guidance=build(config, "guidance"),
        settings=sampler_settings(config),
        recipe=Recipe(config, trust=trusted(config)),
    )


def trainer_settings(config: Config) -> TrainerSettings:
    """Returns the section `trainer` of a config."""
    settings: TrainerSettings = build(config, "trainer")
    return settings


def sampler_settings(config: Config) -> SamplerSettings:
    """Returns how images are computed, by `sampler` and `trainer.precision` of a config."""
    return read_sampler(config).settings(config["trainer"]["precision"])


def sample_set(config: Config) -> SampleSet:
    """Returns the images that `sampler` of a config asks for."""
    return read_sampler(config).images(config["data"]["num_classes"])


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
    weights = config["sampler"]["weights"]
    backbone, step = load_backbone(lambda: build(config, "backbone"), checkpoint, weights)
    model = build_model(config, backbone)
    model.recipe = Recipe(config, step, trusted(config))
    with of_stored_config(read_state(checkpoint)):
        loading.check_fit(model)
    model.backbone.to(device).eval().requires_grad_(False)
    return model


def bare_backbone(config: Config) -> nn.Module:
    """Builds the backbone on the meta device, without memory for its weights."""
    with without_memory():
        return build(config, "backbone")


def forward_costs(config: Config) -> list[int]:
    """Returns the floating-point operations of one forward pass of one image at the resolution of each stage."""
    backbone = bare_backbone(config)
    cascade = build(config, "cascade", max_timestep=backbone.max_timestep)
    return stage_flops(backbone, cascade, config["data"]["channels"])


def build_objective(config: Config, model: Model, device: torch.device) -> Objective:
    """Builds the objective, loads its frozen networks, and makes its trained parts.

    Args:
        config: A resolved config.
        model: The model that is trained.
        device: Device of the networks.

    Raises:
        ValueError: A file is missing, or a loss does not fit the backbone.
    """
    objective: Objective = build(config, "objective")
    bf16 = config["trainer"]["precision"] == "bf16"
    objective.check_backbone(model.backbone)
    width = getattr(model.backbone, "width", None)
    objective.prepare(width=width, assets=assets_root(config), device=device, bf16=bf16)
    return objective


def assets_root(config: Config) -> Path:
    """Returns the folder of the files that job=fetch_assets downloads."""
    return read_assets(config).path


def require_assets(config: Config) -> None:
    """Raises UserError, naming every file that training needs and the assets folder lacks."""
    objective: Objective = build(config, "objective")
    if problems := objective.missing(assets_root(config)):
        remedy = f"`{COMMAND}`, with the options of this command, fetches them"
        raise UserError(f"{'; '.join(problems)}; {remedy} (assets.root={read_assets(config).root})")


def pick_device(name: str) -> torch.device:
    """Returns the device that `trainer.device` names. Raises UserError for a device that this machine lacks."""
    try:
        return loading.pick_device(name)
    except ValueError as error:
        raise UserError(f"trainer.{error}") from None
