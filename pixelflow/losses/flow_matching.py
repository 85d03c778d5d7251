"""The flow matching loss (PixelFlow, equation 5; the v-loss of PixelGen)."""

from __future__ import annotations

from torch import Tensor

from pixelflow.limits import above
from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted


class FlowMatching(GatedLoss):
    """The mean square error of the velocity, |v - v_target|^2, averaged over each image.

    An image of 64 tokens has the same weight as one of 4096. Both velocities are converted by the prediction, so that
    for x-prediction the same clamp applies to both.

    Args:
        weight: Factor of the term.
        min_t: See `GatedLoss`.
        max_weight: Largest weight that an error of x may have, as the clamped signal-to-noise ratio of min-SNR (Hang
            et al. 2023): the error of an image is multiplied by min(1, max_weight / w), where w is the weight that its
            stage and time give to an error of x (`StagePath.x_error_weight`). None for no limit.

    Raises:
        ValueError: weight or min_t is out of range, or max_weight is not above 0.
    """

    def __init__(self, *, weight: float = 1.0, min_t: float = 0.0, max_weight: float | None = None) -> None:
        super().__init__(weight=weight, min_t=min_t)
        above(0, max_weight=max_weight)
        self.max_weight = max_weight

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """Returns the loss of each image, (b,) float32."""
        error = predicted.velocity.float() - predicted.target_velocity.float()
        error = error.square().flatten(1).mean(dim=1)
        if self.max_weight is None:
            return error
        return error * (self.max_weight / sample.path.x_error_weight(sample.tau)).clamp(max=1).to(error)
