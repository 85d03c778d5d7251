"""What the network's raw output means. Either kind gives velocity and clean image at every stage."""

from __future__ import annotations

from torch import Tensor

from pixelflow.types import FlowSample, Path


class VelocityPrediction:
    """The output is the path's velocity (PixelFlow)."""

    def velocity(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        return raw

    def clean(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        return path.x_from_velocity(raw, x_t, tau)

    def target(self, sample: FlowSample) -> Tensor:
        """The raw output of a perfect network."""
        return sample.velocity


class XPrediction:
    """The output is the clean image of the stage (PixelGen, JiT)."""

    def velocity(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        return path.velocity_from_x(raw, x_t, tau)

    def clean(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        return raw

    def target(self, sample: FlowSample) -> Tensor:
        """The raw output of a perfect network."""
        return sample.x
