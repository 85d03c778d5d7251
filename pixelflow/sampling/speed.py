"""Faster forward passes of a backbone: compiled blocks, cached features, CUDA graphs, the fastest attention kernel."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend

from pixelflow.flow.cascade import Cascade
from pixelflow.nn.compile import compile_blocks
from pixelflow.nn.kernel_timing import fastest_backends
from pixelflow.sampling.cuda_graphs import GraphedBackbone
from pixelflow.sampling.feature_cache import FeatureCache
from pixelflow.sampling.settings import SamplerSettings


def speed_up(backbone: nn.Module, cascade: Cascade, settings: SamplerSettings, device: torch.device) -> nn.Module:
    """Returns the backbone inside the wrappers that the settings ask for.

    Args:
        backbone: Backbone of the cascade. Its blocks are compiled in place if `settings.compile` is set.
        cascade: Gives the resolutions of the stages.
        settings: How images are computed.
        device: Device of the backbone.

    Returns:
        The backbone itself, or a wrapper around it.

    Raises:
        ValueError: The backbone does not allow what the settings ask for.
    """
    resolutions = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    if settings.compile:
        compile_blocks(backbone, resolutions=resolutions, device=device)
    if settings.cache_every > 1:
        backbone = FeatureCache(backbone, every=settings.cache_every, resolution=cascade.image_size)
    if settings.cuda_graphs:
        backbone = GraphedBackbone(backbone, resolutions=resolutions[:-1])
    return backbone


def fastest_attention(
    backbone: nn.Module, cascade: Cascade, settings: SamplerSettings, device: torch.device
) -> list[SDPBackend] | None:
    """Measures the attention kernels at each stage's length, for guided batches, and returns the fastest of each stage.

    Args:
        backbone: Backbone of the cascade, without wrappers.
        cascade: Gives the resolutions of the stages.
        settings: Gives batch size and precision.
        device: Device to measure on.

    Returns:
        One kernel for each stage, or None for a backbone without attention.
    """
    patch = int(backbone.patch_size)  # type: ignore[arg-type]
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    sizes = settings.stage_batch or [settings.largest_batch] * cascade.num_stages
    lengths = [(cascade.resolution(stage) // patch) ** 2 for stage in range(cascade.num_stages)]
    shapes = [(2 * size, length) for size, length in zip(sizes, lengths, strict=True)]
    return fastest_backends(backbone, shapes, dtype=dtype, device=device)
