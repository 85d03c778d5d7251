"""A backbone made ready for training: on its device, with its attention kernel, compiled, replicated or sharded."""

from __future__ import annotations

import torch
from torch import nn

from pixelflow.flow.cascade import Cascade
from pixelflow.nn.compile import compile_blocks
from pixelflow.nn.kernel_timing import choose_kernel
from pixelflow.nn.kernels import set_kernel
from pixelflow.nn.pack import Layout
from pixelflow.processes import World
from pixelflow.training.activation_checkpointing import checkpoint_blocks
from pixelflow.training.distributed import Network
from pixelflow.training.settings import TrainerSettings


def build_network(
    backbone: nn.Module, cascade: Cascade, settings: TrainerSettings, *, world: World, device: torch.device
) -> Network:
    """Prepares a backbone for training as the settings ask for. All processes must call it.

    Args:
        backbone: The backbone with its initial weights; it is changed in place.
        cascade: The cascade, which gives the resolution of each stage.
        settings: Attention kernel, activation checkpointing, compilation and the way of using several processes.
        world: The processes of the job.
        device: Device of this process.

    Raises:
        ValueError: The processes do not divide the batch, the attention kernel is not available here, or the backbone
            has no list of blocks where the settings need one.
    """
    backbone = backbone.to(device)
    _choose_attention(backbone, cascade, settings, world, device)
    checkpoint_blocks(backbone, settings.activation_checkpointing)
    if settings.compile:
        resolutions = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
        compile_blocks(backbone, resolutions=resolutions, device=device)
    return Network(backbone, world=world, parallel=settings.parallel, shard_size=settings.shard_size)


def _choose_attention(
    backbone: nn.Module, cascade: Cascade, settings: TrainerSettings, world: World, device: torch.device
) -> None:
    images = settings.images_per_part(world.size)
    share = -(-images // cascade.num_stages)
    sides = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    pack = [torch.empty(share, 1, side, side, device="meta") for side in sides]
    layout = Layout.of(pack, int(backbone.patch_size))  # type: ignore[arg-type]
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    kernel = choose_kernel(settings.attention, layout, backbone=backbone, dtype=dtype, device=device)
    set_kernel(backbone, world.broadcast(kernel))
