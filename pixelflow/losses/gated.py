"""What every loss has in common: a weight, and a gate that says which images count."""

from __future__ import annotations

from torch import Tensor, nn

from pixelflow.losses.frozen import Frozen


class GatedLoss:
    """A loss of the images with tau >= min_t.

    min_t: in [0, 1). It is compared with tau, the time within the image's own stage, which is t where there is one
    stage. In a cascade every stage so has its perceptual loss in the same part of its path; by the share of clean
    image, a gate at 0.3 would shut the coarsest of four stages (0 to 0.25) altogether.
    Raises ValueError for min_t out of range.
    """

    encoder: str | None = None
    encodes_prediction = False
    layer: int | None = None
    networks: tuple[Frozen, ...] = ()

    def __init__(self, *, weight: float = 1.0, min_t: float = 0.0) -> None:
        if not 0 <= min_t < 1:
            raise ValueError(f"min_t={min_t} must be in [0, 1)")
        self.weight, self.min_t = weight, min_t

    def gate(self, tau: Tensor, step_tau: Tensor) -> Tensor:
        """tau: (b,), of some images; step_tau: of all images of the step. Returns (b,) bool, which of the b count."""
        return tau >= self.min_t


class TrainedLoss(GatedLoss, nn.Module):
    """A loss with weights of its own, which are trained and saved with the model."""

    def __init__(self, *, weight: float = 1.0, min_t: float = 0.0) -> None:
        nn.Module.__init__(self)
        GatedLoss.__init__(self, weight=weight, min_t=min_t)

    def build(self, *, width: int, num_features: int) -> None:
        """Make the weights, once the backbone's width and the encoder's number of features are known."""
        raise NotImplementedError
