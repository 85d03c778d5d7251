"""Numbers are compared with their limits as the messages say, and NaN passes no comparison."""

from __future__ import annotations

import math

import pytest

from pixelflow.limits import above, at_least, at_most, finite


def test_values_inside_the_limits() -> None:
    at_least(1, depth=1, width=None, rate=1.5)
    above(0, shift=1e-9, size=None)
    at_most(3, depth=3, width=None)
    finite(seed=-(2**63) + 1, rate=-1e300, width=None)


@pytest.mark.parametrize("value", [0, -1, math.nan, -math.inf])
def test_below_a_limit(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^depth={value} must be at least 1$"):
        at_least(1, width=2, depth=value)
    with pytest.raises(ValueError, match=rf"^shift={value} must be above 0$"):
        above(0, shift=value)


def test_too_large() -> None:
    with pytest.raises(ValueError, match=r"^depth=4 must be at most 3$"):
        at_most(3, depth=4)
    with pytest.raises(ValueError, match=r"^rate=inf must be a finite number$"):
        at_least(0, rate=math.inf)
    with pytest.raises(ValueError, match=r"^seed=9223372036854775808 must be an integer of at most 64 bits$"):
        finite(seed=2**63)
