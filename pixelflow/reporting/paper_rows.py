"""The rows of a table that are quoted from publications."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pixelflow.errors import UserError
from pixelflow.metrics.catalogue import describe, known_metrics
from pixelflow.runs.flat import flatten


@dataclass(frozen=True)
class PaperRow:
    """A row with values that are quoted from a publication.

    Args:
        label: Name of the row.
        source: Where the values are published.
        match: Config values of the measured row below which it is shown.
        metrics: Values by the key of the metric, in the units of the stored values.
        x: Its value on the horizontal axis of a chart; None for the value that `match` has for the axis, or the label.
    """

    label: str
    source: str
    match: dict[str, Any]
    metrics: dict[str, float]
    x: float | str | None = None


def paper_rows(paper: Iterable[Mapping[str, Any]]) -> list[PaperRow]:
    """Returns the quoted rows of a recipe.

    Args:
        paper: Mappings with `label`, `source`, `metrics` (in the units of the stored values) and optionally `match` and
            `x`.

    Raises:
        UserError: A row lacks one of these keys, one of its metrics is not in the catalogue or not a number, or `x` is
            neither a number nor text.
    """
    rows = []
    for number, entry in enumerate(paper):
        lacking = [key for key in ("label", "source", "metrics") if not entry.get(key)]
        if lacking:
            raise UserError(f"paper[{number}] has no `{lacking[0]}`; a quoted row needs label, source and metrics")
        if not isinstance(entry["metrics"], Mapping) or not isinstance(entry.get("match") or {}, Mapping):
            raise UserError(f"paper[{number}]: metrics and match must be mappings of keys to values")
        for key, value in entry["metrics"].items():
            if describe(key) is None:
                known = [column.key for column in known_metrics()]
                raise UserError(f"paper[{number}].metrics.{key} is not a known metric; known are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"paper[{number}].metrics.{key}={value!r} is not a number")
        x = entry.get("x")
        if isinstance(x, bool) or not isinstance(x, int | float | str | None):
            raise UserError(f"paper[{number}].x={x!r} must be a number or text")
        match = flatten(entry.get("match") or {})
        rows.append(PaperRow(str(entry["label"]), str(entry["source"]), match, dict(entry["metrics"]), x))
    return rows
