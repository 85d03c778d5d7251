"""The perceptual loss on the features of a frozen encoder (PixelGen: P-DINO, on DINOv2)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted


class PDino(GatedLoss):
    """The perceptual loss 1 - cos(f(x_pred), f(x)) on an encoder's features, averaged over the tokens.

    Args:
        encoder: Name of the encoder in the objective; DINOv2 in PixelGen.
        weight: See `GatedLoss`.
        min_t: See `GatedLoss`.
        gating: "gated" is the paper's form, the mean over the images with tau >= min_t. "as_released" is the
            release's form, whose mask broadcasts across the batch: all images count unless none has tau >= min_t.
    """

    encodes_prediction = True

    def __init__(
        self,
        *,
        encoder: str,
        weight: float = 1.0,
        min_t: float = 0.0,
        gating: Literal["gated", "as_released"] = "gated",
    ) -> None:
        super().__init__(weight=weight, min_t=min_t)
        self.encoder, self.gating = encoder, gating

    def gate(self, tau: Tensor, step_tau: Tensor) -> Tensor:
        """Returns (b,) bool, which images count (see `GatedLoss.gate`)."""
        if self.gating == "gated":
            return super().gate(tau, step_tau)
        return super().gate(step_tau, step_tau).any().expand(len(tau))

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """Returns the loss of each image, (b,) float32."""
        assert predicted.encoded is not None and predicted.encoded.predicted is not None
        return one_minus_cosine(predicted.encoded.predicted, predicted.encoded.clean)


def one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Returns 1 - cos(a, b), averaged over the tokens, (B,) float32. a, b: (B, L, F)."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1).mean(dim=1)
