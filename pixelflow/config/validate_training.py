"""Checks of the training settings that depend on the number of processes, the device and other parts."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from pixelflow.config.build import Config, pick_device, trainer_settings
from pixelflow.config.debug import refuse_debug
from pixelflow.config.schema import build, with_key
from pixelflow.config.training_parts import checkpoint_store
from pixelflow.errors import UserError
from pixelflow.limits import at_least
from pixelflow.nn.kernels import unavailable
from pixelflow.processes import world_of
from pixelflow.runs.identity import own_evaluation, sampled_step
from pixelflow.runs.status import read_status
from pixelflow.training.reader import CheckpointError, read_state
from pixelflow.training.weights import fitting, read_weights


def check_optimizer(config: Config) -> None:
    """Constructs the optimizer for one number on the CPU.

    Raises:
        UserError: An option is out of range, or the optimizer refuses the options together.
    """
    node = config["optimizer"]
    if node.get("_partial_") is not True:
        raise UserError("optimizer._partial_ must be true: the trainer passes the weights")
    with_key(lambda: _check_rates(node), node, "optimizer")
    try:
        build(config, "optimizer")(params=[torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, RuntimeError) as error:  # what torch raises for options that do not fit
        if isinstance(error, UserError):
            raise
        raise UserError(f"optimizer: {str(error).splitlines()[0]}") from error


def _check_rates(node: Config) -> None:
    at_least(0, **{key: node[key] for key in ("lr", "weight_decay", "eps", "momentum") if key in node})
    for beta in node.get("betas", ()):
        if not 0 <= beta < 1:
            raise ValueError(f"betas={node['betas']} must be numbers in [0, 1)")


def check_training(config: Config) -> None:
    """Checks how a run is trained.

    Raises:
        UserError: The message names the key, its value and the accepted ones.
    """
    trainer = trainer_settings(config)
    size, stages = world_of(os.environ).size, config["cascade"]["num_stages"]
    try:
        images = trainer.images_per_part(size)
    except ValueError as error:
        raise UserError(f"trainer.{error}") from None
    if trainer.compile and images % stages:
        raise UserError(
            f"trainer.compile=true needs fixed shapes, but cascade.num_stages={stages} does not divide the {images} "
            f"images of a forward pass (trainer.batch_size={trainer.batch_size}, {size} processes, accumulate="
            f"{trainer.accumulate}); use batch_size={-(-images // stages) * stages * size * trainer.accumulate}"
        )
    if trainer.attention != "auto":
        dtype = torch.bfloat16 if trainer.precision == "bf16" else torch.float32
        if reason := unavailable(trainer.attention, dtype=dtype, device=pick_device(trainer.device)):
            raise UserError(f"trainer.attention={trainer.attention} {reason}; use auto or dense_groups")
    if trainer.parallel == "fsdp" and (config["objective"].get("adaptive") is not None):
        raise UserError(
            "objective.adaptive needs gradients of whole weights, which trainer.parallel=fsdp divides: use ddp"
        )


def check_step(config: Config, path: Path, trained_by: Config | None = None) -> None:
    """Checks that the checkpoint that `sampler.step` names is there, or that training will keep it.

    Args:
        config: The resolved config of the command.
        path: The run folder, which need not exist.
        trained_by: The config that trains the run, if another setting of the sweep does.

    Raises:
        UserError: There will be no such checkpoint.
    """
    step, trainer = sampled_step(config), trainer_settings(trained_by or config)
    if step == trainer.max_steps or own_evaluation(config) in read_status(path).evaluations:
        return
    store = checkpoint_store(trainer, path)
    there, trained = store.steps(), read_status(path).step or 0
    if step in there:
        return
    if step > trainer.max_steps:
        raise UserError(
            f"sampler.step={step} is beyond trainer.max_steps={trainer.max_steps}; choose an earlier step, or null for "
            "the last"
        )
    if step < max(there, default=0) or trained == trainer.max_steps:
        raise UserError(
            f"sampler.step={step}: {path} has no checkpoint of this step any more, and is not trained again (it has "
            f"{', '.join(map(str, there)) or 'none'}); choose one of these, or train anew with rerun=true and "
            f"trainer.keep_every={step}"
        )
    if not trainer.keep_every or step % trainer.keep_every or not trainer.save_every or step % trainer.save_every:
        raise UserError(
            f"sampler.step={step} needs a checkpoint that stays, but trainer.save_every={trainer.save_every} and "
            f"trainer.keep_every={trainer.keep_every} do not save and keep it: both must divide the step"
        )


def check_start(config: Config, backbone: nn.Module) -> None:
    """Checks that the weights of `init_from` fit the backbone, which may be on any device.

    Raises:
        UserError: The checkpoint is missing, damaged, or of another backbone.
    """
    start = config["init_from"]
    if start is not None:  # read completely, because a damaged file must not be found when the run folder exists
        try:
            refuse_debug(config, read_state(start).config, "init_from")
            weights, _ = read_weights(start, "ema")
            fitting(backbone.state_dict(), weights, start)
        except CheckpointError as error:
            raise UserError(f"init_from={error}") from None
