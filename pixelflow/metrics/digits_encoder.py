"""The digits classifier as a differentiable encoder for losses."""

from __future__ import annotations

from torch import Tensor, nn

from pixelflow.metrics.digits_classifier import load_digits_classifier, resize_grey
from pixelflow.metrics.packaged_classifier import PackagedEncoder

LAYERS = 13
"""The number of modules up to the last max-pooling, whose output has 8x8 positions and 48 channels."""


class DigitsEncoder(PackagedEncoder):
    """Feature maps (B, 64, 48) of the digits classifier, for images with 1 or 3 channels."""

    num_features = 48

    def _layers(self) -> nn.Module:
        return load_digits_classifier().trunk[:LAYERS]

    def _input(self, x: Tensor) -> Tensor:
        return resize_grey(x / 2 + 0.5)
