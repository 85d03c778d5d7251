"""Images in, features out: what every metric here is computed on.

Shape legend: B images, C channels, H and W pixels, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pixelflow.metrics.digits_classifier import NUM_FEATURES, load_digits_classifier

TORCH_FIDELITY_NAME = "pixelflow-digits"


@dataclass(frozen=True)
class Features:
    """pool: (B, D) float32. logits: (B, K) float32, or None for an extractor that names no classes."""

    pool: Tensor
    logits: Tensor | None


class FeatureExtractor(Protocol):
    """name: stored beside every number. short: suffix of metric names. num_features: D."""

    name: str
    short: str
    num_features: int

    def __call__(self, images: Tensor) -> Features: ...


class DigitsFeatures:
    """Features and logits of the shipped digits classifier.

    Takes (B, C, H, H) uint8, C 1 or 3, H in 8..64 and raises ValueError for any other form. It computes in float64
    and rounds: neither batch size, device, autocast nor TF32 shows in the result, and the network is small enough.
    """

    name = "digits-cnn"
    short = "digits"
    num_features = NUM_FEATURES

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = load_digits_classifier().to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        pool, logits = self.model(images.to(self.device))
        return Features(pool=pool.float(), logits=logits.float())


def register_with_torch_fidelity() -> None:
    """Makes `torch_fidelity.calculate_metrics(feature_extractor="pixelflow-digits", ...)` work.

    The layers are "pool" and "logits". Imports torch-fidelity, which takes seconds; calling it twice does no harm.
    """
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class DigitsFeatureExtractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.model = load_digits_classifier()

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            pool, logits = self.model(images)
            layers = {"pool": pool.float(), "logits": logits.float()}
            return tuple(layers[layer] for layer in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "pool", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "pool"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

    if TORCH_FIDELITY_NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(TORCH_FIDELITY_NAME, DigitsFeatureExtractor)
