"""LPIPS (Zhang et al. 2018): a learned distance on the features of VGG-16."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelflow.errors import UserError
from pixelflow.limits import at_least
from pixelflow.losses.frozen import Frozen, as_rgb, resized
from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted

SMALLEST = 16
"""The smallest images of VGG-16 in pixels: each side is halved four times."""


class VGGDistance(Frozen):
    """The LPIPS distance of images in [-1, 1], from the package `lpips`, which contains the linear layers.

    Args:
        file: See `Frozen`.
        image_size: The size to which images are resized, bicubic; None leaves them unchanged.

    Raises:
        ValueError: image_size is below 16.
    """

    def __init__(self, *, file: str | None = "vgg16-397923af.pth", image_size: int | None = None) -> None:
        super().__init__(file=file)
        at_least(SMALLEST, image_size=image_size)
        self.image_size = image_size

    @property
    def smallest(self) -> int:
        """The smallest images, in pixels, that the network accepts."""
        return SMALLEST if self.image_size is None else 1

    def _build(self, path: Path | None) -> nn.Module:
        import lpips  # slow to import

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision by an older name
            model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        if path is not None:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            _load_vgg(model.net, weights, path)
        return model

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the distances (B,) between images a and b, (B, C, H, W) each."""
        return self._run(*(resized(as_rgb(x), self.image_size) for x in (a, b))).flatten()


def _load_vgg(net: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Copies `features.<n>.*` of torchvision into the slices of lpips, whose modules keep their number."""
    own = net.state_dict()
    try:
        loaded = {key: weights[f"features.{key.split('.', 1)[1]}"] for key in own}
        net.load_state_dict(loaded)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} holds no weights of torchvision's VGG-16: {error}") from None


class Lpips(GatedLoss):
    """A perceptual distance between x_pred and the clean image.

    Args:
        distance: `(x_pred, x) -> (B,)`, for images in [-1, 1]; x_pred is not clamped.
        weight: See `GatedLoss`.
        min_t: See `GatedLoss`.
    """

    def __init__(
        self, *, distance: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0, min_t: float = 0.0
    ) -> None:
        super().__init__(weight=weight, min_t=min_t)
        self.distance = distance
        self.networks = (distance,) if isinstance(distance, Frozen) else ()

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """Returns the loss of each image, (b,) float32."""
        return self.distance(predicted.x_pred, sample.x)
