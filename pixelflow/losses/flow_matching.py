"""The flow matching loss (PixelFlow, equation 5; PixelGen, equation of v-loss)."""

from __future__ import annotations

from torch import Tensor

from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted


class FlowMatching(GatedLoss):
    """Mean square error of the velocity, one value per image: an image of 64 tokens weighs as much as one of 4096.

    Both velocities go through the prediction's own conversion, so x-prediction meets the same clamp on both sides.
    """

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """(b,) float32."""
        error = predicted.velocity.float() - predicted.target_velocity.float()
        return error.square().flatten(1).mean(dim=1)
