"""Feature extractors: what the metrics see of an image.

Shape legend: B images, C channels, H and W pixels, D features, K classes, S spatial features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pixelflow.assets import missing_line, sha256
from pixelflow.metrics.digits_classifier import NUM_FEATURES, load_digits_classifier

TORCH_FIDELITY_NAME = "pixelflow-digits"


@dataclass(frozen=True)
class Features:
    """pool: (B, D) float32. logits: (B, K) float32, or None for an extractor that names no classes.

    spatial: (B, S) float32 of a layer that still knows where things are, or None.
    """

    pool: Tensor
    logits: Tensor | None
    spatial: Tensor | None = None


class FeatureExtractor(Protocol):
    """name: stored beside every number. short: suffix of metric names; none for Inception, whose distance is the FID.

    num_features: D. num_spatial: S, or 0. preprocessing: from uint8 images to what the network sees, in words.
    metrics: what is measured with it unless asked otherwise (`evaluator.METRICS`).
    fingerprint: of the name and the weights' file; features are kept under it.
    """

    name: str
    short: str
    num_features: int
    num_spatial: int
    preprocessing: str
    metrics: tuple[str, ...]
    fingerprint: str

    def needs(self) -> list[str]:
        """The files that it reads from the assets folder."""
        ...

    def load(self, folder: Path, device: torch.device | str) -> None:
        """Comes before the first call. Raises ValueError for a file that is missing or holds something else."""
        ...

    def __call__(self, images: Tensor) -> Features:
        """images: (B, C, H, W) uint8. Raises ValueError for any other form."""
        ...


class DigitsFeatures:
    """Features and logits of the shipped digits classifier.

    Takes (B, C, H, H) uint8, C 1 or 3, H in 8..64 and raises ValueError for any other form. It computes in float64
    and rounds: neither batch size, device, autocast nor TF32 shows in the result, and the network is small enough.
    """

    name = fingerprint = "digits-cnn"
    short = "digits"
    num_features = NUM_FEATURES
    num_spatial = 0
    preprocessing = "mean of the channels, bilinear with antialiasing to 16x16, /255"
    metrics = ("frechet", "kid", "precision_recall", "accuracy")

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = load_digits_classifier().to(self.device)

    def needs(self) -> list[str]:
        return []

    def load(self, folder: Path, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.model = self.model.to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        pool, logits = self.model(images.to(self.device))
        return Features(pool=pool.float(), logits=logits.float())


class FrozenFeatures:
    """An extractor whose weights lie in the assets folder, read as plain tensors and never unpickled.

    file: of the weights; None for seeded random weights, for tests and benchmarks.
    It computes in float32 without TF32 and without autocast, whatever the training around it does.
    """

    name: str

    def __init__(self, *, file: str | None) -> None:
        self.file, self.device = file, torch.device("cpu")
        self.model: nn.Module | None = None
        self.fingerprint = self.name

    def needs(self) -> list[str]:
        return [] if self.file is None else [self.file]

    def load(self, folder: Path, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if self.model is None:
            if lines := [line for file in self.needs() if (line := missing_line(folder, file))]:
                raise ValueError("; ".join(lines))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # of random weights; those of a file overwrite them
                self.model = self._build(None if self.file is None else folder / self.file)
            weights = "random" if self.file is None else sha256(folder / self.file)[:16]
            self.fingerprint = f"{self.name}-{weights}"
        self.model = self.model.to(self.device).eval().requires_grad_(False)

    def _build(self, path: Path | None) -> nn.Module:
        raise NotImplementedError

    def _run(self, images: Tensor) -> Any:
        assert self.model is not None, "load() comes first"
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must be uint8 (B, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}; "
                "pixelflow.sampling.to_uint8 converts images in [-1, 1]"
            )
        images = images.to(self.device).expand(-1, 3, -1, -1)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), _exact(self.device):
            return self.model(images)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """float32 as it is: TF32 would move features by 1e-3."""
    if device.type != "cuda":
        yield
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth file, as plain tensors. Raises ValueError for a file that holds anything else."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise half a dozen kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is not a file of plain tensors: {reason[:120]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} is not a file of plain tensors: a state dict is expected")
    return tensors


def load_into(model: nn.Module, tensors: dict[str, Tensor], path: Path, what: str) -> None:
    """Raises ValueError, naming the file, where the tensors are not those of the model."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} holds no weights of {what}: {str(error).splitlines()[1].strip()[:160]}") from None


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
