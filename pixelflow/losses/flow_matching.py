"""The flow matching loss (PixelFlow, equation 5; the v-loss of PixelGen)."""

from __future__ import annotations

from torch import Tensor

from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted


class FlowMatching(GatedLoss):
    """The mean square error of the velocity, |v - v_target|^2, averaged over each image.

    An image of 64 tokens has the same weight as one of 4096. Both velocities are converted by the prediction, so that
    for x-prediction the same clamp applies to both.

    Args:
        weight: Factor of the term.
        min_t: See `GatedLoss`.
    """

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """Returns the loss of each image, (b,) float32."""
        error = predicted.velocity.float() - predicted.target_velocity.float()
        return error.square().flatten(1).mean(dim=1)
