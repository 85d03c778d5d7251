"""A PixelFlow of a few thousand weights for tests."""

from __future__ import annotations

from typing import Any

import torch

from pixelflow.backbones import PixelFlow


def tiny_pixelflow(*, seed: int = 0, zero_init: bool = False, **settings: Any) -> PixelFlow:
    """All weights are random, also those that start at zero (modulation, output, biases), unless zero_init."""
    defaults = {"patch_size": 2, "depth": 2, "num_heads": 2, "head_dim": 8, "num_classes": 5, "in_channels": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PixelFlow(**(defaults | settings))
        for parameter in model.parameters():
            if not zero_init and parameter.eq(0).all():
                torch.nn.init.normal_(parameter, std=0.1)
    return model
