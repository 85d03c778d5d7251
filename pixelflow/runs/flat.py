"""Nested configs as dotted keys with plain values."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config -> dotted keys and plain values; empty groups vanish."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        value = plain(value)
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(value: Any) -> Any:
    """A config value in one form, wherever it comes from: text that spells a literal becomes it, 2.0 becomes 2."""
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def _literal(text: str) -> Any:
    """Text as JSON or as Python spells it, whichever fits; itself if neither does."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError):
            continue
        if value is None or isinstance(value, str | bool | int | float | list | tuple | dict):
            return value
    return text
