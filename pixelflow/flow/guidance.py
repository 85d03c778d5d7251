"""Classifier-free guidance as a schedule: v = v_null + scale * (v_cond - v_null).

A scale of exactly 1 means that the null pass is not needed, and the sampler leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence

from pixelflow.limits import at_least, at_most, finite

PAPER_WEIGHTS = (0.0, 1 / 6, 2 / 3, 1.0)
"""Share of (scale - 1) in each of four stages (PixelFlow section 4.3)."""


class NoGuidance:
    """The scale 1, so that no null pass is computed."""

    def scale(self, stage: int, tau: float) -> float:
        """Returns the scale at a time of a stage."""
        return 1.0


class ConstantGuidance:
    """A constant scale, at every time of every stage.

    Args:
        scale: The guidance scale.

    Raises:
        ValueError: The scale is not finite.
    """

    def __init__(self, *, scale: float) -> None:
        finite(scale=scale)
        self.max_scale = scale

    def scale(self, stage: int, tau: float) -> float:
        """Returns the scale at a time of a stage."""
        return self.max_scale


class StageWiseGuidance:
    """The scale 1 + (scale - 1) * w(stage), rising from the coarse to the fine stages (PixelFlow table 3c).

    Args:
        scale: The largest scale.
        num_stages: Number of stages of the cascade.
        weights: w, one per stage. By default the paper's table of four, taken as a function of the stage's position
            between first and last and interpolated linearly: four stages give the table, one stage gives 1.

    Raises:
        ValueError: The number of weights is not num_stages, or a number is not finite.
    """

    def __init__(self, *, scale: float, num_stages: int, weights: Sequence[float] | None = None) -> None:
        finite(scale=scale)
        at_least(1, num_stages=num_stages)
        if weights is not None and len(weights) != num_stages:
            raise ValueError(f"weights has {len(weights)} entries, but the cascade has {num_stages} stages")
        for weight in weights or ():
            finite(weights=weight)
        self.max_scale = scale
        self.weights = list(weights) if weights is not None else stage_weights(num_stages)

    def scale(self, stage: int, tau: float) -> float:
        """Returns the scale of a stage."""
        return 1 + (self.max_scale - 1) * self.weights[stage]


class IntervalGuidance:
    """`scale` for tau in (low, high], 1 elsewhere (Kynkaanniemi et al. 2024; PixelGen uses (0.1, 0.9]).

    Args:
        scale: The scale inside the interval.
        low: Excluded lower end of the interval.
        high: Upper end of the interval.
        include_high: Whether tau = high is inside; PixelGen's release excludes it with Adams-Bashforth.

    Raises:
        ValueError: The scale is not finite, or not 0 <= low < high <= 1.
    """

    def __init__(self, *, scale: float, low: float, high: float, include_high: bool = True) -> None:
        finite(scale=scale)
        if not 0 <= low < high <= 1:
            raise ValueError(f"low={low}, high={high} must satisfy 0 <= low < high <= 1")
        self.max_scale, self.low, self.high, self.include_high = scale, low, high, include_high

    def contains(self, tau: float) -> bool:
        """Returns whether tau is inside the interval."""
        return self.low < tau < self.high or (self.include_high and tau == self.high)

    def scale(self, stage: int, tau: float) -> float:
        """Returns the scale at a time."""
        return self.max_scale if self.contains(tau) else 1.0


class StageIntervalGuidance:
    """The scales of `StageWiseGuidance` inside the interval of `IntervalGuidance` of every stage, 1 elsewhere.

    Args:
        scale: The largest scale.
        num_stages: Number of stages of the cascade.
        low: Excluded lower end of the interval.
        high: Upper end of the interval.
        weights: See `StageWiseGuidance`.
        include_high: See `IntervalGuidance`.
    """

    def __init__(
        self,
        *,
        scale: float,
        num_stages: int,
        low: float,
        high: float,
        weights: Sequence[float] | None = None,
        include_high: bool = True,
    ) -> None:
        self.table = StageWiseGuidance(scale=scale, num_stages=num_stages, weights=weights)
        self.interval = IntervalGuidance(scale=scale, low=low, high=high, include_high=include_high)

    def scale(self, stage: int, tau: float) -> float:
        """Returns the scale at a time of a stage."""
        return self.table.scale(stage, tau) if self.interval.contains(tau) else 1.0


def stage_weights(num_stages: int) -> list[float]:
    """Returns the paper's four weights, interpolated linearly to `num_stages` stages."""
    at_most(64, num_stages=num_stages)
    if num_stages == 1:
        return [1.0]
    last = len(PAPER_WEIGHTS) - 1
    weights = []
    for stage in range(num_stages):
        position = stage / (num_stages - 1) * last
        left = min(int(position), last - 1)
        weights.append(PAPER_WEIGHTS[left] + (position - left) * (PAPER_WEIGHTS[left + 1] - PAPER_WEIGHTS[left]))
    return weights
