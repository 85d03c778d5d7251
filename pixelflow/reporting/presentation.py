"""The columns, quoted rows, question and chart that a recipe states for the table of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pixelflow.errors import UserError
from pixelflow.metrics.catalogue import describe, known_metrics

ARM = "arm"
"""The config key that holds a recipe's name for a setting."""
SCALES = ("linear", "log", "category")


@dataclass(frozen=True)
class Chart:
    """The section `chart` of a recipe.

    Args:
        x: The config key on the horizontal axis, or "arm".
        label: The label of that axis; empty for the header of the key's column.
        scale: "linear", "log" or "category"; empty for linear if all values are numbers, and category otherwise.
        series: The config key whose values are drawn as separate series; None for one series.
        metrics: The metrics to draw, in order; empty for the main distance followed by all others but the time.
    """

    x: str
    label: str = ""
    scale: str = ""
    series: str | None = None
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Presentation:
    """The presentation of a table and its chart, as a recipe states it.

    Args:
        axes: The config keys that the recipe names as columns.
        swept: The config keys that the sweep varies; they are columns unless `axes` names others or the rows have arms.
        arms: The arms in the order of their rows; empty if it is not known.
        paper: The quoted rows, see `pixelflow.reporting.paper_rows.paper_rows`.
        chart: What the chart shows; None for the rows of the table.
        question: The question that the runs answer; empty if the recipe states none.
    """

    axes: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    paper: tuple[dict[str, Any], ...] = ()
    chart: Chart | None = None
    question: str = ""

    @staticmethod
    def of(config: Mapping[str, Any], *, swept: Iterable[str] = (), arms: Iterable[str] = ()) -> Presentation:
        """Returns the presentation that a config states.

        Args:
            config: A config with plain values. Keys that an earlier version did not have may be missing.
            swept: The config keys that the sweep varies.
            arms: The arms in the order of their rows.

        Raises:
            UserError: `chart` is malformed.
        """
        return Presentation(
            tuple(config.get("axes") or ()), tuple(swept), tuple(arms), tuple(config.get("paper") or ()),
            chart_of(config.get("chart")), config.get("question") or "",
        )  # fmt: skip


def chart_of(node: Any) -> Chart | None:
    """Returns the chart that the config key `chart` describes, or None for null.

    Raises:
        UserError: A key of the mapping is unknown or missing, or has a value that is not accepted.
    """
    if node is None:
        return None
    if not isinstance(node, Mapping):
        raise UserError(f"chart={node!r} must be a mapping, such as {{x: cascade.kickoff}}, or null")
    names = [field.name for field in fields(Chart)]
    for key in node:
        if key not in names:
            raise UserError(f"chart.{key} is not an option of a chart; accepted: {', '.join(names)}")
    if "x" not in node:
        raise UserError("chart.x is missing: a config key such as cascade.kickoff, or arm")
    given = {key: value for key, value in node.items() if value is not None}
    for key in ("x", "label", "scale", "series"):
        if not isinstance(given.get(key, "text"), str) or (key in ("x", "series") and given.get(key) == ""):
            raise UserError(f"chart.{key}={node[key]!r} must be text{' that names a config key' * (key != 'label')}")
    if given.get("scale", "linear") not in SCALES:
        raise UserError(f"chart.scale={node['scale']!r} must be one of {', '.join(SCALES)}")
    return Chart(**{**given, "metrics": _known_metrics(given.get("metrics", []))})


def _known_metrics(metrics: Any) -> tuple[str, ...]:
    """The metrics of a chart. Raises UserError unless they are a list of known metrics."""
    if not isinstance(metrics, Sequence) or isinstance(metrics, str):
        raise UserError(f"chart.metrics={metrics!r} must be a list of metrics, such as [fid, recall]")
    for key in metrics:
        if not isinstance(key, str) or describe(key) is None:
            known = ", ".join(metric.key for metric in known_metrics())
            raise UserError(f"chart.metrics: {key!r} is not a known metric; known are {known}")
    return tuple(metrics)
