"""The loss of the clean image itself (the x-loss of JiT)."""

from __future__ import annotations

from torch import Tensor

from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted


class CleanImage(GatedLoss):
    """The mean square error of the clean image, |x_pred - x|^2, averaged over each image.

    All stages and times have the same weight. `FlowMatching` gives the weight `StagePath.x_error_weight` to an error of
    x instead. The prediction may be of any kind.

    Args:
        weight: Factor of the term.
        min_t: See `GatedLoss`.
    """

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """Returns the loss of each image, (b,) float32."""
        error = predicted.x_pred.float() - sample.x.float()
        return error.square().flatten(1).mean(dim=1)
