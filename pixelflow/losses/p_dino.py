"""The perceptual loss on the features of a frozen encoder (PixelGen: P-DINO, on DINOv2)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted


class PDino(GatedLoss):
    """1 - cosine between the encoder's features of x_pred and of the clean image, averaged over the tokens.

    encoder: its name in the objective; DINOv2 in PixelGen, and any other makes the perceptual loss of its features.
    min_t, gating: `gated` is the paper's, the mean over the images with tau >= min_t. `as_released`: the release's
    mask broadcasts across the batch, so all images count unless none has tau >= min_t.
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
        if self.gating == "gated":
            return super().gate(tau, step_tau)
        return super().gate(step_tau, step_tau).any().expand(len(tau))

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """(b,) float32."""
        assert predicted.encoded is not None and predicted.encoded.predicted is not None
        return one_minus_cosine(predicted.encoded.predicted, predicted.encoded.clean)


def one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """(B, L, F) twice -> (B,) float32, averaged over the tokens."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1).mean(dim=1)
