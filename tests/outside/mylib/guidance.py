"""A guidance schedule that rises linearly within each stage."""

from __future__ import annotations


class RisingGuidance:
    """The scale 1 + (most - 1) * tau, in every stage.

    Args:
        most: The scale at tau = 1.

    Raises:
        ValueError: `most` is below 1.
    """

    def __init__(self, *, most: float) -> None:
        if most < 1:
            raise ValueError(f"most={most} must be at least 1")
        self.most = most

    def scale(self, stage: int, tau: float) -> float:
        """Returns the scale at a time of a stage."""
        return 1 + (self.most - 1) * tau
