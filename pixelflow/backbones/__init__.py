"""The networks."""

from pixelflow.backbones.jit import JiT
from pixelflow.backbones.pixelflow import PixelFlow

__all__ = ["JiT", "PixelFlow"]
