"""From config to parts: the one place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch.nn.attention import SDPBackend

from pixelflow.assets import COMMAND
from pixelflow.data.preparation import PrepareSettings
from pixelflow.flow.cascade import Cascade
from pixelflow.losses.objective import Objective
from pixelflow.nn.compile import compile_blocks
from pixelflow.nn.kernel_timing import fastest_backends
from pixelflow.sampling.cuda_graphs import GraphedBackbone
from pixelflow.sampling.feature_cache import FeatureCache
from pixelflow.sampling.sampler import Sampler
from pixelflow.training.checkpoint import CheckpointError
from pixelflow.training.weights import read_weights
from pixelflow.types import Conditioning, Guidance, Prediction, Solver

Config = Mapping[str, Any]
"""A resolved config: plain dictionaries, lists, numbers and strings."""


@dataclass(frozen=True)
class Model:
    """What training and sampling share."""

    backbone: torch.nn.Module
    cascade: Cascade
    prediction: Prediction
    conditioning: Conditioning


def build_model(config: Config) -> Model:
    backbone = instantiate(config["backbone"])
    return Model(
        backbone=backbone,
        cascade=instantiate(config["cascade"], max_timestep=backbone.max_timestep),
        prediction=instantiate(config["prediction"]),
        conditioning=instantiate(config["conditioning"]),
    )


def speed_up(config: Config, backbone: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The backbone with the wrappers that the sampler's settings ask for."""
    settings, size, stages = config["sampler"], config["data"]["image_size"], config["cascade"]["num_stages"]
    resolutions = [size >> (stages - 1 - stage) for stage in range(stages)]
    if settings["compile"]:
        compile_blocks(backbone, resolutions=resolutions, device=device)
    if settings["cache_every"] > 1:
        backbone = FeatureCache(backbone, every=settings["cache_every"], resolution=size)
    if settings["cuda_graphs"]:
        backbone = GraphedBackbone(backbone, resolutions=resolutions[:-1])
    return backbone


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
        raise ValueError("; ".join(problems) + f"{told} (assets.root={config['assets']['root']})")


def build_sampler(config: Config, model: Model, backbone: torch.nn.Module, device: torch.device) -> Sampler:
    solver: Solver = instantiate(config["solver"])
    guidance: Guidance = instantiate(config["guidance"])
    return Sampler(
        backbone=backbone,  # type: ignore[arg-type]
        cascade=model.cascade,
        prediction=model.prediction,
        solver=solver,
        guidance=guidance,
        conditioning=model.conditioning,
        channels=config["data"]["channels"],
        device=device,
        precision=config["trainer"]["precision"],
        attention=_attention(config, backbone, device) if config["sampler"]["tune_attention"] else None,
        stage_batch=batch if isinstance(batch := config["sampler"]["batch_size"], list) else None,
    )


def _attention(config: Config, backbone: torch.nn.Module, device: torch.device) -> list[SDPBackend] | None:
    """The fastest attention of each stage, for batches of the sampler's size with guidance."""
    sizes, patch = config["sampler"]["batch_size"], int(backbone.patch_size)  # type: ignore[arg-type]
    stages, size = config["cascade"]["num_stages"], config["data"]["image_size"]
    dtype = torch.bfloat16 if config["trainer"]["precision"] == "bf16" else torch.float32
    lengths = [((size >> (stages - 1 - stage)) // patch) ** 2 for stage in range(stages)]
    images = sizes if isinstance(sizes, list) else [sizes] * stages
    shapes = [(2 * n, length) for n, length in zip(images, lengths, strict=True)]
    return fastest_backends(backbone, shapes, dtype=dtype, device=device)


def load_sampler(config: Config, checkpoint: str, device: torch.device) -> tuple[Sampler, int]:
    """A sampler with the weights of a checkpoint, and the checkpoint's step.

    Raises CheckpointError if the checkpoint is damaged or its weights do not fit the config.
    """
    model = build_model(config)
    weights, step = read_weights(checkpoint, config["sampler"]["weights"])
    try:
        model.backbone.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{checkpoint} does not fit this backbone: {' '.join(lines[1:3]).strip()}") from None
    backbone = model.backbone.to(device).eval().requires_grad_(False)
    fast = speed_up(config, backbone, device)
    return build_sampler(config, model, fast, device), step


def pick_device(name: str) -> torch.device:
    """Raises ValueError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"trainer.device={name}: this machine has no CUDA device; use auto or cpu")
    return device


def prepare_settings(config: Config) -> PrepareSettings:
    """Return the form of prepared shards; job.size=null chooses the size that the training crop needs."""
    job, spec = config["job"], instantiate(config["data"]).spec
    size = job["size"] or spec.preprocess.stored_size(spec.image_size)
    return PrepareSettings(
        size=size, format=job["format"], quality=job["quality"], samples_per_shard=job["samples_per_shard"]
    )
