"""What the small classifiers whose weights are part of the package share: layers, image conversion, and files.

Shape legend: B images, C channels, H = W pixels, S the side of the network's input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from pixelflow.files import save_tensors
from pixelflow.terminal import say

ModelT = TypeVar("ModelT", bound=nn.Module)


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """Returns a 3x3 convolution, batch normalisation and a ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def resize(images: Tensor, size: int) -> Tensor:
    """Returns images (B, C, H, H) at (B, C, S, S), bilinear with antialiasing; differentiable."""
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def words_of(channels: tuple[int, ...]) -> str:
    """Returns the numbers of channels that a classifier accepts, such as "1 or 3 channels"."""
    return f"{' or '.join(map(str, channels))} channels"


def check_images(images: Tensor, *, what: str, channels: tuple[int, ...], sizes: tuple[int, int]) -> None:
    """Checks that a classifier accepts images.

    Args:
        images: (B, C, H, W).
        what: Name of the classifier, for the message.
        channels: The accepted numbers of channels.
        sizes: The least and the greatest side in pixels.

    Raises:
        ValueError: The images are not uint8, not square, or of another size or number of channels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 (B, C, H, W), got {images.dtype} {tuple(images.shape)}; "
            "pixelflow.sampling.to_uint8 converts images in [-1, 1]"
        )
    _, given, height, width = images.shape
    if given not in channels or height != width or not sizes[0] <= height <= sizes[1]:
        raise ValueError(
            f"images of shape {tuple(images.shape)}: the {what} needs {words_of(channels)} and "
            f"square images of {sizes[0]} to {sizes[1]} pixels"
        )


def frozen(model: ModelT) -> ModelT:
    """Returns a model in eval mode and float64, without gradients."""
    return model.double().eval().requires_grad_(False)


def load_weights(model: ModelT, path: Path) -> ModelT:
    """Returns a model with the weights of a file, as `frozen` returns it."""
    with safe_open(path, framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return frozen(model)


def load_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a weights' file: accuracies, sizes of the splits, seed."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the weights in float32 with their metadata, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors({name: _stored(value) for name, value in model.state_dict().items()}, path, metadata)
    say(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
    say("\n".join(f"{name}: {value}" for name, value in metadata.items()))


def _stored(value: Tensor) -> Tensor:
    return value.float().contiguous() if value.is_floating_point() else value


class PackagedEncoder:
    """Base class of differentiable encoders for losses that are the first layers of a packaged classifier."""

    num_features: int

    def __init__(self) -> None:
        self.model: nn.Module | None = None

    def missing(self, folder: Path) -> list[str]:
        """Returns the missing files: none, because the weights are part of the package."""
        return []

    def load(self, folder: Path, device: Any, *, bf16: bool = False) -> None:
        """Loads the weights in float32; the network is too small for a gain from bf16."""
        self.model = self._layers().float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns features (B, N, D), one of each position, of images x in [-1, 1], which are not clamped."""
        assert self.model is not None, "call load() first"
        return self.model(self._input(x)).flatten(2).transpose(1, 2)

    def _layers(self) -> nn.Module:
        raise NotImplementedError

    def _input(self, x: Tensor) -> Tensor:
        raise NotImplementedError
