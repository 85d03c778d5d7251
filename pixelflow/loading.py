"""Builds new models and loads trained ones, without Hydra."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pixelflow.conf_dir import read_option
from pixelflow.errors import UserError
from pixelflow.model import SECTIONS, Model, Recipe
from pixelflow.parts import instantiate
from pixelflow.sampling.settings import Precision, SamplerSettings
from pixelflow.training.fitting import of_stored_config
from pixelflow.training.locate import checkpoints_at
from pixelflow.training.reader import CheckpointError, read_state, show
from pixelflow.training.weights import load_backbone
from pixelflow.types import Guidance, Prediction, Solver

logger = logging.getLogger(__name__)


def build(
    backbone: str | nn.Module = "pixelflow_tiny",
    *,
    image_size: int,
    num_classes: int,
    num_stages: int = 1,
    channels: int = 3,
    prediction: Literal["velocity", "x"] | Prediction = "velocity",
    solver: str | Solver = "euler",
    guidance: str | Guidance = "stage_wise",
    seed: int = 0,
    **options: Any,
) -> Model:
    """Builds a model with fresh weights, without Hydra.

    Args:
        backbone: Name of a backbone (the options in conf/backbone), or a backbone.
        image_size: Side of the images in pixels.
        num_classes: Number of classes.
        num_stages: Stages of the cascade.
        channels: Channels of the images.
        prediction: What the network predicts: "velocity", "x" (the clean image), or an object.
        solver: Name of a solver or a solver, the default of `Model.sample`.
        guidance: Name of a guidance schedule or a schedule, the default of `Model.sample`.
        seed: Seed of the initial weights.
        **options: Further arguments of a backbone given by name, such as `depth=2`.

    Returns:
        The model, on the CPU.

    Raises:
        ValueError: A name does not exist, or the parts do not fit each other.

    Examples:
        >>> import pixelflow
        >>> model = pixelflow.build(image_size=16, num_stages=2, num_classes=10, channels=1, depth=2)
        >>> model.cascade.kickoff, sum(p.numel() for p in model.backbone.parameters()) < 1_000_000
        (8, True)
    """
    values = {
        "data.image_size": image_size, "data.num_classes": num_classes, "data.channels": channels,
        "cascade.num_stages": num_stages,
    }  # fmt: skip
    chosen: dict[str, Any] = {
        "backbone": backbone, "cascade": "stages", "prediction": prediction, "conditioning": "class_label",
        "solver": solver, "guidance": guidance,
    }  # fmt: skip
    config = {group: read_option(group, name, values) for group, name in chosen.items() if isinstance(name, str)}
    config["cascade"]["num_stages"] = num_stages
    if options and not isinstance(backbone, str):
        raise ValueError(f"{', '.join(options)}: a backbone that is an object takes no further arguments")
    config.get("backbone", {}).update(options)
    config["data"] = {"image_size": image_size, "num_classes": num_classes, "channels": channels}
    parts = {group: part for group, part in chosen.items() if not isinstance(part, str)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _assemble(Recipe(config), channels=channels, **parts)
    check_fit(model)
    return model


def load(
    path: str | Path,
    *,
    solver: str | Solver | None = None,
    num_steps: int | Sequence[int] | None = None,
    guidance: float | str | Guidance | None = None,
    weights: str = "ema",
    device: str = "auto",
    precision: Precision | None = None,
    trust: Sequence[str] = (),
) -> Model:
    """Loads a trained model, without Hydra.

    The config stored in the checkpoint is data: only parts of this package, and of the modules that `trust` names, are
    built from it.

    Args:
        path: A run folder, of which the newest undamaged checkpoint is read, a checkpoint folder, or a file in one.
        solver: Default of `Model.sample` instead of the recipe's.
        num_steps: Default of `Model.sample` instead of the recipe's.
        guidance: Default of `Model.sample` instead of the recipe's.
        weights: "ema", "model", another average such as "ema_0.999" or "power_0.05", or "posthoc_0.08", an average of
            any width that is reconstructed from the snapshots of the run.
        device: "auto" for a GPU where there is one, or the name of a device.
        precision: "fp32" or "bf16"; by default that of the recipe.
        trust: Names of modules that define parts of this model, besides this package.

    Returns:
        The model in evaluation mode, on its device.

    Raises:
        UserError: There is no checkpoint, it is damaged, or it holds a part that is not allowed.
        ValueError: An argument does not fit the model.
    """
    found = checkpoints_at(path)
    for number, folder in enumerate(found):
        try:
            model = _read(folder, weights, tuple(trust), precision)
            logger.info("loaded %s, step %d", folder, model.recipe.step)
            break
        except CheckpointError as error:
            if number + 1 == len(found):
                raise UserError(str(error)) from None
            logger.warning("skipped a checkpoint: %s", error)
    model.solver, model.guidance = model.make_solver(solver, num_steps), model.make_guidance(guidance)
    return model.to(pick_device(device))


def pick_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is a GPU where there is one.

    Raises:
        ValueError: The name has another form, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    accepted = "auto, cpu, cuda, or one CUDA device such as cuda:1"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        close = "; did you mean cuda?" if name.lower().startswith(("gpu", "cuda", "nvidia")) else ""
        raise ValueError(f"device={name!r} must be {accepted}{close}")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: this machine has no CUDA device; use auto or cpu")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0")
    return device


def _recipe_settings(config: Mapping[str, Any]) -> SamplerSettings:
    """Returns the settings of a stored config that belong to the recipe and not to the machine that it ran on."""
    keys = ("batch_size", "fixed_batch", "cache_every")
    chosen = {key: value for key, value in config.get("sampler", {}).items() if key in keys}
    if (precision := config.get("trainer", {}).get("precision")) is not None:
        chosen["precision"] = precision
    return SamplerSettings(**chosen)


def _read(folder: Path, weights: str, trust: tuple[str, ...], precision: Precision | None) -> Model:
    stored = read_state(folder)
    config = stored.config
    if lacking := [name for name in (*SECTIONS, "data") if not isinstance(config.get(name), Mapping)]:
        raise CheckpointError(f"{folder / 'state.json'} holds no config of a model: it lacks {', '.join(lacking)}")
    with of_stored_config(stored):
        node = config["backbone"]
        backbone, step = load_backbone(lambda: instantiate(node, trust=trust), folder, weights)
        recipe = Recipe(config, step, trust)
        model = _assemble(recipe, channels=config["data"].get("channels"), backbone=backbone)
        check_fit(model)
    if precision is not None:
        model.settings = replace(model.settings, precision=precision)
    model.backbone.eval()
    return model


def _assemble(recipe: Recipe, *, channels: int, **given: Any) -> Model:
    """Makes a model of the given parts, and of the recipe's for the others."""

    def part(name: str, **more: Any) -> Any:
        return given[name] if name in given else instantiate(recipe.config[name], trust=recipe.trust, **more)

    backbone = part("backbone")
    return Model(
        backbone=backbone,
        cascade=part("cascade", max_timestep=backbone.max_timestep),
        prediction=part("prediction"),
        conditioning=part("conditioning"),
        channels=channels,
        solver=part("solver"),
        guidance=part("guidance"),
        settings=_recipe_settings(recipe.config),
        recipe=recipe,
    )


def check_fit(model: Model) -> None:
    """Checks that the parts of a model have the sizes of each other and of its recipe.

    Raises:
        ValueError: The message names the sizes that differ.
    """
    backbone, config = model.backbone, model.recipe.config
    if not isinstance(model.channels, int) or model.channels < 1:
        raise ValueError(f"channels={show(model.channels)} must be a whole number above 0")
    patch, fixed = backbone.patch_size, backbone.fixed_resolution
    if model.cascade.kickoff % patch:  # type: ignore[operator]
        raise ValueError(
            f"patch_size={patch} does not divide the kickoff resolution {model.cascade.kickoff} "
            f"(image_size={model.image_size}, num_stages={model.num_stages})"
        )
    if fixed is not None and model.num_stages > 1:
        raise ValueError(f"num_stages={model.num_stages} needs a backbone for several resolutions; it serves {fixed}")
    # The tensors bound the sizes of the backbone only; the noise, the labels and the stages follow the others.
    sizes = {
        "resolution": (fixed, "image_size", model.image_size),
        "in_channels": (getattr(backbone, "in_channels", None), "channels", model.channels),
        "num_classes": (getattr(backbone, "num_classes", None), "conditioning.num_classes", model.num_classes),
    }
    data: Mapping[str, Any] = config.get("data", {})
    sizes |= {f"data.{key}": (data.get(key), key, getattr(model, key)) for key in ("image_size", "num_classes")}
    for part in ("solver", "guidance"):
        stages = config.get(part, {}).get("num_stages")
        sizes[f"{part}.num_stages"] = (stages, "cascade.num_stages", model.num_stages)
    for name, (size, other, value) in sizes.items():
        if size is not None and size != value:
            raise ValueError(f"{name}={show(size)} of the backbone or recipe differs from {other}={show(value)}")
