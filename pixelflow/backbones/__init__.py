from pixelflow.backbones.pixelflow import PixelFlow

__all__ = ["PixelFlow"]
