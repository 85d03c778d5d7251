"""The digits classifier as a differentiable encoder for losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pixelflow.metrics.digits_classifier import load_digits_classifier, resize_grey

LAYERS = 13
"""The number of modules up to the last max-pooling, whose output has 8x8 positions and 48 channels."""


class DigitsEncoder:
    """Feature maps of the digits classifier, whose weights are part of the package."""

    num_features = 48

    def __init__(self) -> None:
        self.model: nn.Module | None = None

    def missing(self, folder: Path) -> list[str]:
        """Returns the missing files: none, because the weights are part of the package."""
        return []

    def load(self, folder: Path, device: Any, *, bf16: bool = False) -> None:
        """Loads the weights in float32; the network is too small for a gain from bf16."""
        self.model = load_digits_classifier().trunk[:LAYERS].float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns features (B, 64, 48) of images x (B, C, H, W) in [-1, 1], which are not clamped."""
        assert self.model is not None, "call load() first"
        return self.model(resize_grey(x / 2 + 0.5)).flatten(2).transpose(1, 2)
