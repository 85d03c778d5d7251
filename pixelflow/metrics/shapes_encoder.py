"""The shapes classifier as a differentiable encoder for losses."""

from __future__ import annotations

from torch import Tensor, nn

from pixelflow.metrics.packaged_classifier import PackagedEncoder, resize
from pixelflow.metrics.shapes_classifier import INPUT_SIZE, load_shapes_classifier

LAYERS = 14
"""The number of modules up to the last block but one, whose output has 8x8 positions and 48 channels."""


class ShapesEncoder(PackagedEncoder):
    """Feature maps (B, 64, 48) of the shapes classifier, for images with 3 channels, or 1 that is repeated."""

    num_features = 48

    def _layers(self) -> nn.Module:
        return load_shapes_classifier().trunk[:LAYERS]

    def _input(self, x: Tensor) -> Tensor:
        return resize(x.expand(-1, 3, -1, -1), INPUT_SIZE)
