"""Checkpoints in the formats of other projects."""

from pixelflow.interop.pixelgen import read_lightning_weights

__all__ = ["read_lightning_weights"]
