"""A user's own package beside pixelflow: a backbone without attention, and a guidance schedule."""

from mylib.guidance import RisingGuidance
from mylib.networks import ConvNet

__all__ = ["ConvNet", "RisingGuidance"]
