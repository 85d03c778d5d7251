"""Checks of numbers in constructors. Each raises a ValueError whose message begins with the name of the argument."""

from __future__ import annotations

import math

LARGEST = 2**63 - 1
"""Largest integer that a tensor, a random generator and JSON readers of other languages all hold."""


def at_least(least: float, **values: float | None) -> None:
    """Checks that numbers are finite and not below a limit. None is left out.

    Args:
        least: Smallest accepted value.
        **values: The numbers by the names of their arguments.

    Raises:
        ValueError: A number is below `least` or not finite, or an integer has more than 64 bits.

    Examples:
        >>> at_least(1, depth=0)
        Traceback (most recent call last):
        ValueError: depth=0 must be at least 1
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name}={value} must be at least {least}")
    finite(**values)


def at_most(most: float, **values: float | None) -> None:
    """Checks that numbers are not above a limit. None is left out.

    Args:
        most: Largest accepted value.
        **values: The numbers by the names of their arguments.

    Raises:
        ValueError: A number is above `most`.
    """
    for name, value in values.items():
        if value is not None and not value <= most:
            raise ValueError(f"{name}={value} must be at most {most}")


def above(limit: float, **values: float | None) -> None:
    """Checks that numbers are finite and above a limit. None is left out.

    Args:
        limit: Largest value that is not accepted.
        **values: The numbers by the names of their arguments.

    Raises:
        ValueError: A number is not above `limit` or not finite, or an integer has more than 64 bits.
    """
    for name, value in values.items():
        if value is not None and not value > limit:
            raise ValueError(f"{name}={value} must be above {limit}")
    finite(**values)


def finite(**values: float | None) -> None:
    """Checks that numbers are finite, and that integers fit into 64 bits. None is left out.

    Args:
        **values: The numbers by the names of their arguments.

    Raises:
        ValueError: A number is NaN or infinite, or an integer has more than 64 bits.
    """
    for name, value in values.items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"{name}={value} must be an integer of at most 64 bits")
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}={value} must be a finite number")
