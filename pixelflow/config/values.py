"""Checks of single values anywhere in a config, whatever their key: numbers that no setting accepts, and text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pixelflow.errors import UserError
from pixelflow.limits import finite

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""Control characters other than tab and line feed."""


def check_values(config: Mapping[str, Any]) -> None:
    """Checks every number and every text of a resolved config, at any depth.

    Raises:
        UserError: A number is not finite or has more than 64 bits, or a text holds control characters or is not UTF-8.
    """
    for key, value in _leaves(config, ""):
        if isinstance(value, int | float):
            try:
                finite(**{key: value})
            except ValueError as error:
                raise UserError(str(error)) from None
        elif isinstance(value, str):
            _check_text(key, value)


def _check_text(key: str, text: str) -> None:
    if CONTROL.search(text):
        raise UserError(f"{key}={text!r} must not hold control characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{key}={text!r} must be valid UTF-8 text") from None


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of every number and text, the keys of mappings included."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if isinstance(name, str):
                yield key or "the config", name
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{key}[{number}]")
    elif not isinstance(node, bool):
        yield key, node
