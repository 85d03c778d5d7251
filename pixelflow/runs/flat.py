"""Nested configs as dotted keys with plain values."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Mapping
from typing import Any

BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
DEEPEST = 50
"""Largest nesting of a literal. A text that is nested deeper stays a text, because no parser and no reader would follow
it to its end."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested config as one mapping of dotted keys to plain values; empty groups vanish.

    Examples:
        >>> flatten({"solver": {"num_steps": "10", "shift": 1.0}, "data": {}})
        {'solver.num_steps': 10, 'solver.shift': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        value = plain(value)
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(value: Any) -> Any:
    """Returns a config value in one form: text that spells a literal becomes that literal, and 2.0 becomes 2."""
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def _literal(text: str) -> Any:
    """The literal that the text spells in JSON or in Python; otherwise the text."""
    if max(itertools.accumulate(BRACKETS.get(c, 0) for c in text), default=0) > DEEPEST:
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: of a long chain of signs
            continue
        if value is None or isinstance(value, str | bool | int | float | list | tuple | dict):
            return value
    return text
