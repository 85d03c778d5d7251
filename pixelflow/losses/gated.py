"""The base classes of the losses: a weight, and a gate that selects images by their tau."""

from __future__ import annotations

from torch import Tensor, nn

from pixelflow.limits import at_least
from pixelflow.losses.frozen import Frozen


class GatedLoss:
    """A loss of the images with tau >= min_t.

    The gate compares tau, the time within the image's stage, which is t if there is one stage. In a cascade every
    stage then has its perceptual loss in the same part of its path. A gate by the share of clean image at 0.3 would
    exclude the coarsest of four stages (0 to 0.25) altogether.

    Args:
        weight: Factor of the term in the objective, 0 or more.
        min_t: Smallest tau of the images that count, in [0, 1).

    Raises:
        ValueError: weight or min_t is out of range.
    """

    encoder: str | None = None
    encodes_prediction = False
    layer: int | None = None
    networks: tuple[Frozen, ...] = ()

    def __init__(self, *, weight: float = 1.0, min_t: float = 0.0) -> None:
        at_least(0, weight=weight)
        if not 0 <= min_t < 1:
            raise ValueError(f"min_t={min_t} must be in [0, 1)")
        self.weight, self.min_t = weight, min_t

    def gate(self, tau: Tensor, step_tau: Tensor) -> Tensor:
        """Returns (b,) bool, which images count, from their tau (b,); `step_tau` is tau of all images of the step."""
        return tau >= self.min_t


class TrainedLoss(GatedLoss, nn.Module):
    """A loss with weights, which are trained and saved with the model.

    Args:
        weight: See `GatedLoss`.
        min_t: See `GatedLoss`.
    """

    def __init__(self, *, weight: float = 1.0, min_t: float = 0.0) -> None:
        nn.Module.__init__(self)
        GatedLoss.__init__(self, weight=weight, min_t=min_t)

    def build(self, *, width: int, num_features: int) -> None:
        """Makes the weights for a backbone of this width and an encoder with this number of features."""
        raise NotImplementedError
