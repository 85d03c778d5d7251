"""Representation alignment (Yu et al. 2025, arXiv 2410.06940)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.limits import at_least
from pixelflow.losses.gated import TrainedLoss
from pixelflow.losses.p_dino import one_minus_cosine
from pixelflow.types import Batch, FlowSample, Predicted


class Repa(TrainedLoss):
    """The loss 1 - cos(h(tokens), f(x)) between projected tokens of the backbone and features of the clean image.

    The projection h is three linear layers with SiLU between them and is trained with the model. Both are squares of
    tokens; the backbone's tokens are resized to the encoder's size if they differ.

    Args:
        encoder: Name of the encoder in the objective.
        layer: The block whose input tokens are aligned.
        hidden: Width of the projection.
        weight: See `GatedLoss`.
        min_t: See `GatedLoss`.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self, *, encoder: str, layer: int = 8, hidden: int = 2048, weight: float = 0.5, min_t: float = 0.0
    ) -> None:
        super().__init__(weight=weight, min_t=min_t)
        at_least(0, layer=layer)
        at_least(1, hidden=hidden)
        self.encoder, self.layer, self.hidden = encoder, layer, hidden

    def build(self, *, width: int, num_features: int) -> None:
        """Makes the projection from `width` to `num_features`."""
        self.projection = nn.Sequential(
            nn.Linear(width, self.hidden), nn.SiLU(),
            nn.Linear(self.hidden, self.hidden), nn.SiLU(),
            nn.Linear(self.hidden, num_features),
        )  # fmt: skip

    def forward(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """Returns the loss of each image, (b,) float32."""
        assert predicted.encoded is not None and self.layer is not None
        clean = predicted.encoded.clean
        tokens = resize_tokens(predicted.features[self.layer].float(), clean.shape[1])
        return one_minus_cosine(self.projection(tokens), clean)


def resize_tokens(tokens_BLD: Tensor, length: int) -> Tensor:
    """Resizes a square of L tokens to one of `length` tokens, bilinear with antialiasing."""
    if tokens_BLD.shape[1] == length:
        return tokens_BLD
    old, new = math.isqrt(tokens_BLD.shape[1]), math.isqrt(length)
    square = tokens_BLD.transpose(1, 2).unflatten(2, (old, old))
    return F.interpolate(square, size=(new, new), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
