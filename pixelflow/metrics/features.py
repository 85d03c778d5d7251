"""Feature extractors, which map images to the features that the metrics compare.

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
from pixelflow.errors import UserError
from pixelflow.metrics import digits_classifier, shapes_classifier
from pixelflow.metrics.packaged_classifier import words_of

TORCH_FIDELITY_NAME = "pixelflow-digits"


@dataclass(frozen=True)
class Features:
    """The features of a batch of images.

    Args:
        pool: (B, D) float32, averaged over the positions of the image.
        logits: (B, K) float32; None for an extractor that does not classify.
        spatial: (B, S) float32 of a layer that retains positions; None for an extractor without one.
    """

    pool: Tensor
    logits: Tensor | None
    spatial: Tensor | None = None


class FeatureExtractor(Protocol):
    """The interface of a feature extractor.

    Attributes:
        name: Name in the records of evaluations.
        short: Suffix of the names of metrics; empty for Inception, whose Fréchet distance is the FID.
        num_features: D.
        num_spatial: S, or 0.
        preprocessing: Description of the steps from uint8 images to the network's input.
        metrics: Default metrics, from `pixelflow.metrics.evaluator.METRICS`.
        fingerprint: Identifies the name and the weights; stored features are found by it.
    """

    name: str
    short: str
    num_features: int
    num_spatial: int
    preprocessing: str
    metrics: tuple[str, ...]
    fingerprint: str

    def needs(self) -> list[str]:
        """Returns the files that it reads from the assets folder."""
        ...

    def load(self, folder: Path, device: torch.device | str) -> None:
        """Loads the weights from the assets folder; it must be called before the first batch.

        Raises:
            UserError: A file is missing, or its content is not what the network needs.
        """
        ...

    def unfit(self, *, data: str, image_size: int, channels: int) -> str | None:
        """Returns why images cannot be measured, or None.

        Args:
            data: Name of the data that the images imitate.
            image_size: Height and width in pixels.
            channels: Number of channels.
        """
        ...

    def __call__(self, images: Tensor) -> Features:
        """Returns the features of images (B, C, H, W) uint8.

        Raises:
            ValueError: The images have another form.
        """
        ...


class PackagedFeatures:
    """Base class of extractors whose weights are part of the package.

    They compute in float64 and round to float32, so that the result does not depend on the batch size, the device,
    autocast or TF32. Their networks are small enough for that.

    Attributes:
        data: Name of the only data that the extractor measures.
        channels: The accepted numbers of channels.
        sizes: The least and the greatest side of the images in pixels.

    Args:
        device: Device of the network.
    """

    num_spatial = 0
    data: str
    channels: tuple[int, ...]
    sizes: tuple[int, int]

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = self._build().to(self.device)

    def needs(self) -> list[str]:
        """Returns no files, because the weights are part of the package."""
        return []

    def load(self, folder: Path, device: torch.device | str) -> None:
        """Moves the network to a device."""
        self.device = torch.device(device)
        self.model = self.model.to(self.device)

    def unfit(self, *, data: str, image_size: int, channels: int) -> str | None:
        """Returns why images cannot be measured, or None; see `FeatureExtractor`."""
        least, most = self.sizes
        if data != self.data:
            return f"the {self.data} classifier measures {self.data}, not {data}"
        if not least <= image_size <= most or channels not in self.channels:
            form = f"{least} to {most} pixels with {words_of(self.channels)}"
            return f"the {self.data} classifier measures images of {form}"
        return None

    def _build(self) -> nn.Module:
        raise NotImplementedError

    @torch.inference_mode()
    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pool, logits = self.model(images.to(self.device))
        return pool.float(), logits.float()


class DigitsFeatures(PackagedFeatures):
    """Features and logits of the digits classifier, for images (B, C, H, H) uint8 with C = 1 or 3 and H in 8..64.

    Args:
        device: Device of the network.
    """

    name = fingerprint = "digits-cnn"
    short = data = "digits"
    num_features = digits_classifier.NUM_FEATURES
    channels = digits_classifier.CHANNELS
    sizes = digits_classifier.IMAGE_SIZES[0], digits_classifier.IMAGE_SIZES[-1]
    preprocessing = "mean of the channels, bilinear with antialiasing to 16x16, /255"
    metrics = ("frechet", "kid", "precision_recall", "accuracy")

    def __call__(self, images: Tensor) -> Features:
        """Returns the features of images; see `FeatureExtractor`."""
        pool, logits = self._run(images)
        return Features(pool=pool, logits=logits)

    def _build(self) -> nn.Module:
        return digits_classifier.load_digits_classifier()


class ShapesFeatures(PackagedFeatures):
    """Features of the shapes classifier, for images (B, 3, H, H) uint8 with H in 16..128.

    There is no class accuracy: a scene may hold two shapes, and its class is the shape that its caption names first,
    which the image does not show.

    Args:
        device: Device of the network.
    """

    name = fingerprint = "shapes-cnn"
    short = data = "shapes"
    num_features = shapes_classifier.NUM_FEATURES
    channels = shapes_classifier.CHANNELS
    sizes = shapes_classifier.SIZES
    preprocessing = "bilinear with antialiasing to 32x32, /127.5 - 1"
    metrics = ("frechet", "kid", "precision_recall")

    def __call__(self, images: Tensor) -> Features:
        """Returns the features of images; see `FeatureExtractor`."""
        return Features(pool=self._run(images)[0], logits=None)

    def _build(self) -> nn.Module:
        return shapes_classifier.load_shapes_classifier()


class FrozenFeatures:
    """Base class of extractors whose weights are in the assets folder.

    The weights are read as tensors only and are never unpickled. The network computes in float32 without TF32 and
    without autocast, even within a training that uses them.

    Args:
        file: File of the weights; None for seeded random weights, for tests and benchmarks.
    """

    name: str

    def __init__(self, *, file: str | None) -> None:
        self.file, self.device = file, torch.device("cpu")
        self.model: nn.Module | None = None
        self.fingerprint = self.name

    def needs(self) -> list[str]:
        """Returns the files that it reads from the assets folder."""
        return [] if self.file is None else [self.file]

    def load(self, folder: Path, device: torch.device | str) -> None:
        """Loads the weights from the assets folder, once, and moves the network to a device.

        Raises:
            UserError: A file is missing, or its content is not what the network needs.
        """
        self.device = torch.device(device)
        if self.model is None:
            if lines := [line for file in self.needs() if (line := missing_line(folder, file))]:
                raise UserError("; ".join(lines))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # For random weights; those of a file overwrite them.
                self.model = self._build(None if self.file is None else folder / self.file)
            weights = "random" if self.file is None else sha256(folder / self.file)[:16]
            self.fingerprint = f"{self.name}-{weights}"
        self.model = self.model.to(self.device).eval().requires_grad_(False)

    def unfit(self, *, data: str, image_size: int, channels: int) -> str | None:
        """Returns why images cannot be measured, or None; see `FeatureExtractor`."""
        return None if channels in (1, 3) else f"{self.name} measures images with 1 or 3 channels"

    def _build(self, path: Path | None) -> nn.Module:
        raise NotImplementedError

    def _run(self, images: Tensor) -> Any:
        assert self.model is not None, "call load() first"
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
    """Disables TF32, which would change features by 1e-3."""
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
    """Returns the state dict in a .pth file, which is read as tensors only.

    Raises:
        UserError: The file cannot be read, or it contains anything else.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise exceptions of many types.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a file of plain tensors: {reason[:120]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path} is not a file of plain tensors: a state dict is expected")
    return tensors


def load_into(model: nn.Module, tensors: dict[str, Tensor], path: Path, what: str) -> None:
    """Loads tensors into a model.

    Args:
        model: The model.
        tensors: Its state dict.
        path: The file of the tensors, for the message.
        what: Name of the model, for the message.

    Raises:
        UserError: The names or shapes of the tensors are not those of the model.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path} holds no weights of {what}: {str(error).splitlines()[1].strip()[:160]}") from None


def register_with_torch_fidelity() -> None:
    """Registers the digits classifier as torch-fidelity's feature extractor "pixelflow-digits".

    Its layers are "pool" and "logits". Importing torch-fidelity takes seconds. Repeated calls have no effect.
    """
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class DigitsFeatureExtractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.model = digits_classifier.load_digits_classifier()

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
