"""Memory, FLOPs and time of one training before it starts, without memory or device (job=benchmark job.estimate=true).

Activations are counted, not modelled: the recipe's own forward pass runs on tensors without content, and what autograd
keeps for the backward pass is summed up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.config.build import Config, build_model, trainer_settings
from pixelflow.config.schema import build
from pixelflow.config.training_parts import bare_backbone
from pixelflow.nn.blocks import blocks_of
from pixelflow.processes import world_of
from pixelflow.training.activation_checkpointing import KEPT_OPS
from pixelflow.training.costs import StepCosts, step_costs
from pixelflow.training.objective_costs import ObjectiveCosts, objective_costs
from pixelflow.training.settings import TrainerSettings
from pixelflow.types import Condition

GIB = 2**30


@dataclass(frozen=True)
class TrainingCounts:
    """The cost of one step of a training, without its length and the rate of the devices.

    Args:
        backbone: Operations of the backbone.
        parameters: Parameters of the backbone.
        activations: Bytes that the backbone keeps for the backward pass of one part.
        objective: What the frozen networks and trained terms of the objective add to one part.
    """

    backbone: StepCosts
    parameters: int
    activations: int
    objective: ObjectiveCosts


def count_training(config: Config, images: int) -> TrainingCounts:
    """Counts a step of the configured training.

    Args:
        config: A resolved config.
        images: Images of one forward pass.
    """
    settings = trainer_settings(config)
    backbone = bare_backbone(config)
    model = build_model(config, backbone)
    channels = config["data"]["channels"]
    objective = objective_costs(
        build(config, "objective"), backbone, model.cascade, model.prediction, build(config, "timesteps"),
        channels=channels, images=images, bf16=settings.precision == "bf16",
    )  # fmt: skip
    costs = step_costs(backbone, model.cascade, channels=channels, images=settings.batch_size)
    parameters = sum(p.numel() for p in backbone.parameters())
    return TrainingCounts(costs, parameters, activation_bytes(config, images), objective)


def estimate(
    config: Config, options: BenchmarkOptions, count: Callable[[Config, int], TrainingCounts] = count_training
) -> dict[str, Any]:
    """Estimates memory, FLOPs and time of the configured training on `job.devices` devices.

    Each device is assumed to reach `job.utilisation` of `job.tflops` in the FLOPs of the model and of its objective.

    Args:
        config: A resolved config.
        options: Options of the job.
        count: Counts a step.
    """
    settings: TrainerSettings = trainer_settings(config)
    devices = options.devices or world_of(os.environ).size
    images = settings.images_per_part(devices)
    counts = count(config, images)
    objective = counts.objective
    averages = len(build(config, "ema").names)
    shards = (settings.shard_size or devices) if settings.parallel == "fsdp" else 1
    parameters = counts.parameters
    weights = parameters * 4 / shards
    trained = objective.trained_parameters * 4
    activations = counts.activations + objective.activation_bytes
    of_objective = objective.flops * settings.batch_size / images
    flops = counts.backbone.flops + of_objective
    rate = options.tflops * 1e12 * options.utilisation * devices
    seconds = flops / rate
    total = (weights * (4 + averages) + trained * 4 + objective.frozen_bytes + activations) / GIB
    return {
        "parameters": parameters,
        "devices": devices,
        "steps": settings.max_steps,
        "images_per_step": settings.batch_size,
        "images_per_forward": images,
        "tokens_per_step": counts.backbone.tokens,
        "tflop_per_image": flops / settings.batch_size / 1e12,
        "tflop_per_image_of_objective": of_objective / settings.batch_size / 1e12,
        "tflop_per_step": flops / 1e12,
        "weights_gib": weights / GIB,
        "gradients_and_optimizer_gib": 3 * weights / GIB,
        "averages_gib": averages * weights / GIB,
        "objective_weights_gib": (4 * trained + objective.frozen_bytes) / GIB,
        "activations_gib": activations / GIB,
        "total_gib_per_device": total,
        "fits": total <= options.memory_gib,
        "checkpoint_gib": (parameters * (3 + averages) + objective.trained_parameters * 3) * 4 / GIB,
        "assumed_tflops_per_device": options.tflops,
        "assumed_utilisation": options.utilisation,
        "seconds_per_step": seconds,
        "images_per_second": settings.batch_size / seconds,
        "device_hours": seconds * settings.max_steps * devices / 3600,
        "days": seconds * settings.max_steps / 86400,
    }


class _Kept(TorchDispatchMode):
    """Counts the bytes of the results that selective checkpointing keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in KEPT_OPS:
            self.bytes += sum(t.nbytes for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor))
        return out


def activation_bytes(config: Config, images: int) -> int:
    """Returns the peak memory in bytes that a forward pass keeps for its backward pass.

    The pass is eager; compiled blocks keep less. With activation checkpointing one block at a time is kept in full.
    """
    settings: TrainerSettings = trainer_settings(config)
    with FakeTensorMode():
        model = build_model(config)
        cascade, backbone = model.cascade, model.backbone
        shares = [images // cascade.num_stages + (s < images % cascade.num_stages) for s in range(cascade.num_stages)]
        channels = config["data"]["channels"]
        x = [torch.empty(n, channels, cascade.resolution(s), cascade.resolution(s)) for s, n in enumerate(shares) if n]
        own = {p.untyped_storage()._cdata for p in backbone.parameters()}
        blocks = blocks_of(backbone)
        saved: dict[int, dict[int, int]] = {i: {} for i in range(-1, len(blocks))}
        inputs, at = {}, [-1]

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own and not any(storage._cdata in part for part in saved.values()):
                saved[at[0]][storage._cdata] = storage.nbytes()
            return tensor

        def enter(number: int) -> Any:
            def hook(module: Any, arguments: Any) -> None:
                at[0], inputs[number] = number, arguments[0].nbytes

            return hook

        for i, block in enumerate(blocks):
            block.register_forward_pre_hook(enter(i))
        condition = Condition(torch.zeros(images, dtype=torch.int64))
        bf16 = settings.precision == "bf16"
        watched = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with watched, _Kept() as kept, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = backbone(x, torch.zeros(images), condition)
        del output
    whole = {i: sum(part.values()) for i, part in saved.items()}
    if settings.activation_checkpointing == "none":
        return sum(whole.values())
    largest = max(whole[i] for i in range(len(blocks)))
    products = kept.bytes if settings.activation_checkpointing == "selective" else 0
    return whole[-1] + sum(inputs.values()) + products + largest
