"""The digits classifier as an encoder that a loss can look through: float images in, with the gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pixelflow.metrics.digits_classifier import load_digits_classifier, resize_grey

LAYERS = 13
"""Modules of the trunk up to the last max-pooling: maps of 8x8 with 48 channels."""


class DigitsEncoder:
    """Feature maps of the shipped digits classifier, whose weights lie in the package."""

    num_features = 48

    def __init__(self) -> None:
        self.model: nn.Module | None = None

    def missing(self, folder: Path) -> list[str]:
        return []

    def load(self, folder: Path, device: Any, *, bf16: bool = False) -> None:
        """In float32; it is too small for bf16 to pay."""
        self.model = load_digits_classifier().trunk[:LAYERS].float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1], not clamped -> (B, 64, 48)."""
        assert self.model is not None, "load() comes first"
        return self.model(resize_grey(x / 2 + 0.5)).flatten(2).transpose(1, 2)
