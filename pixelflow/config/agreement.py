"""Checks that the parts of a config fit each other: sizes that are stated twice, contracts, and shapes.

Nothing is allocated: networks and images are on the meta device, which computes shapes only.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pixelflow.config.build import Config
from pixelflow.config.schema import build
from pixelflow.data.images import DataSource
from pixelflow.errors import UserError
from pixelflow.flow.cascade import Cascade
from pixelflow.losses.objective import Objective
from pixelflow.training.fitting import without_memory
from pixelflow.training.settings import TrainerSettings
from pixelflow.types import (
    Backbone,
    Batch,
    Condition,
    Conditioning,
    FlowSample,
    Guidance,
    Loss,
    Predicted,
    Prediction,
    Solver,
    Timesteps,
)

EQUAL = {
    "data.num_classes": ("backbone.num_classes", "conditioning.num_classes"),
    "data.channels": ("backbone.in_channels",),
    "data.image_size": ("cascade.image_size", "backbone.image_size"),
    "cascade.num_stages": ("solver.num_stages", "guidance.num_stages"),
}
"""Keys that must have the value of another key, where a part has them. conf/ sets them by interpolation."""

CONTRACTS: dict[str, type] = {
    "data": DataSource,
    "backbone": Backbone,
    "conditioning": Conditioning,
    "prediction": Prediction,
    "cascade": Cascade,
    "timesteps": Timesteps,
    "trainer": TrainerSettings,
    "solver": Solver,
    "guidance": Guidance,
}
"""What the part of each group must offer."""


def check_agreement(config: Config) -> None:
    """Checks the sizes that several groups state.

    Raises:
        UserError: Two of them differ; the message names both keys.
    """
    for source, keys in EQUAL.items():
        wanted = _value(config, source)
        for key in keys:
            value = _value(config, key)
            if value is not None and wanted is not None and value != wanted:
                raise UserError(f"{key}={value} must equal {source}={wanted}; leave {key} out, or set {source}")


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return config[section].get(name)


def build_on_meta(config: Config) -> Any:
    """Builds the backbone on the meta device.

    Raises:
        UserError: Its constructor refuses the options, or torch cannot make tensors of these sizes.
    """
    try:
        with without_memory():
            return build(config, "backbone")
    except (RuntimeError, OverflowError) as error:
        raise UserError(f"backbone: torch cannot make tensors of these sizes: {_first_line(error)}") from error


def check_contracts(config: Config, parts: Mapping[str, Any]) -> None:
    """Checks that the object of each group, and each term of the objective, can be used as such.

    Raises:
        UserError: A part lacks an attribute; the message names it.
    """
    for name, contract in CONTRACTS.items():
        _check_contract(parts[name], contract, f"{name}._target_={config[name]['_target_']}")
    for name, loss in getattr(parts["objective"], "terms", {}).items():
        target = config["objective"]["terms"][name]["_target_"]
        _check_contract(loss, Loss, f"objective.terms.{name}._target_={target}")


def _check_contract(part: Any, contract: type, key: str) -> None:
    missing = [name for name in _offered(contract) if not hasattr(part, name)]
    if missing:
        raise UserError(f"{key} is not a {contract.__name__}: it has no {', '.join(missing)}")


def _offered(contract: type) -> Iterator[str]:
    """Yields the attributes and methods that a protocol or a class declares itself."""
    if getattr(contract, "_is_protocol", False):
        yield from inspect.get_annotations(contract)
    for name, value in vars(contract).items():
        if inspect.isfunction(value) and (name == "__call__" or not name.startswith("_")):
            yield name


def check_shapes(config: Config, backbone: nn.Module, cascade: Cascade, features: tuple[int, ...] = ()) -> None:
    """Runs the backbone on the meta device with one image of each stage, together, as in training.

    Args:
        config: A resolved config.
        backbone: The backbone on the meta device.
        cascade: The cascade, which gives the resolution of each stage.
        features: Blocks of the backbone whose features the objective needs.

    Raises:
        UserError: The backbone does not accept the images, or its output has another shape.
    """
    channels, stages = config["data"]["channels"], cascade.num_stages
    sides = [cascade.resolution(stage) for stage in range(stages)]
    images = [torch.empty(1, channels, side, side, device="meta") for side in sides]
    label = torch.zeros(stages, dtype=torch.int64, device="meta")
    shown = ", ".join(f"{side}x{side}" for side in sides)
    what = f"backbone._target_={config['backbone']['_target_']}: images of {shown} pixels, {channels} channels"
    try:
        with torch.no_grad():
            out = backbone(images, torch.zeros(stages, device="meta"), Condition(label), features=features).output
    except NotImplementedError:  # a backbone whose shapes depend on values cannot be computed without them
        return
    except (ValueError, RuntimeError) as error:
        if "meta" in str(error):
            return
        raise UserError(f"{what}, do not fit: {_first_line(error)}") from error
    got = [tuple(part.shape) for part in out]
    if got != [tuple(part.shape) for part in images]:
        raise UserError(f"{what}, give an output of the shapes {got}")


def check_terms(config: Config, objective: Objective, cascade: Cascade, prediction: Prediction) -> None:
    """Computes the terms of the objective on the meta device, for two images of each stage.

    A term with a frozen network or features is not computed: its network would have to be loaded.

    Args:
        config: A resolved config.
        objective: The objective.
        cascade: The cascade.
        prediction: The meaning of the backbone's output.

    Raises:
        UserError: A term cannot be computed for these images, or does not return one value per image.
    """
    data = config["data"]
    sides = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    try:
        objective.check_images(min(sides))
    except ValueError as error:
        raise UserError(f"objective.{error}") from None
    with torch.device("meta"):
        x = torch.empty(2, data["channels"], data["image_size"], data["image_size"])
        index, tau = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.float64)
        batch = Batch(x, Condition(index), index)
        for stage, side in enumerate(sides):
            noise = torch.empty(2, data["channels"], side, side)
            sample = cascade.flow_sample(x, stage=stage, tau=tau, noise=noise, index=index)
            for name, loss in objective.terms.items():
                if not (loss.encoder or loss.networks or loss.layer is not None or isinstance(loss, nn.Module)):
                    key = f"objective.terms.{name}._target_={config['objective']['terms'][name]['_target_']}"
                    _check_term(loss, sample, Predicted(noise, sample, prediction), batch, key)


def _check_term(loss: Loss, sample: FlowSample, predicted: Predicted, batch: Batch, key: str) -> None:
    try:
        values = loss(sample, predicted, batch)
    except NotImplementedError:  # a term whose computation depends on values
        return
    except (ValueError, RuntimeError) as error:
        if "meta" in str(error):
            return
        size = " x ".join(str(side) for side in sample.x.shape[1:])
        raise UserError(f"{key} cannot be computed for images of {size}: {_first_line(error)}") from error
    shape = tuple(getattr(values, "shape", ()))
    if shape != (len(sample.x),):
        raise UserError(f"{key} must return one value per image, a tensor ({len(sample.x)},), and returned {shape}")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
