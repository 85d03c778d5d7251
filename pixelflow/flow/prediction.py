"""The meaning of the network's raw output; each kind gives the velocity and the clean image at every stage.

raw, x_t: (B, C, H, W). tau: (B,). path: the path of the stage.
"""

from __future__ import annotations

from torch import Tensor

from pixelflow.types import FlowSample, Path


class VelocityPrediction:
    """The output is the velocity of the path (PixelFlow)."""

    def velocity(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        """Returns raw."""
        return raw

    def clean(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        """Returns the clean image that belongs to the velocity `raw`."""
        return path.x_from_velocity(raw, x_t, tau)

    def target(self, sample: FlowSample) -> Tensor:
        """Returns the raw output of a perfect network."""
        return sample.velocity


class XPrediction:
    """The output is the clean image of the stage (PixelGen, JiT)."""

    def velocity(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        """Returns the velocity that belongs to the clean image `raw`."""
        return path.velocity_from_x(raw, x_t, tau)

    def clean(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        """Returns raw."""
        return raw

    def target(self, sample: FlowSample) -> Tensor:
        """Returns the raw output of a perfect network."""
        return sample.x
