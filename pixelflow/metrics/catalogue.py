"""The catalogue of metrics: what each number is called, its unit, and whether higher or lower values are better.

Tables, charts, searches and the registry of models read it, so that a metric is described in this place alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

FULL_SAMPLE_COUNT = 50_000
"""The sample count behind a number that is called FID without a suffix (Heusel et al. 2017, and the ADM suite)."""


@dataclass(frozen=True)
class MetricInfo:
    """How one metric is shown and compared.

    Args:
        key: Its name in evaluation files.
        label: Its name in tables.
        higher_is_better: None where neither direction is better.
        decimals: Decimal places, after multiplying the value by `scale`.
        scale: Factor between the stored value and the value shown.
        unit: The unit of the value shown.
        distance: Whether it is a distance between the samples and the reference. The first distance of an evaluation
            is its main metric: a search minimises it.
        biased: Whether a smaller sample count biases it upwards, so that its label names the count.
    """

    key: str
    label: str
    higher_is_better: bool | None
    decimals: int
    scale: float = 1.0
    unit: str = ""
    distance: bool = False
    biased: bool = False

    @property
    def header(self) -> str:
        """The label with unit and an arrow for the direction, as the head of a column."""
        arrow = {None: "", True: " ↑", False: " ↓"}[self.higher_is_better]
        return f"{self.label}{f' [{self.unit}]' if self.unit else ''}{arrow}"


_CATALOGUE: dict[str, MetricInfo] = {}


def register(*metrics: MetricInfo) -> None:
    """Add metrics behind those that are known; tables show them in this order.

    Raises:
        ValueError: A metric of this key is described differently already.
    """
    for metric in metrics:
        if _CATALOGUE.setdefault(metric.key, metric) != metric:
            raise ValueError(f"metric {metric.key} is described already: {_CATALOGUE[metric.key]}")


def known_metrics() -> tuple[MetricInfo, ...]:
    """All metrics, in the order of a table's columns."""
    return tuple(_CATALOGUE.values())


def higher_is_better(key: str) -> bool:
    """Returns whether higher values of a metric are better; False for one that the catalogue does not hold."""
    return key in _CATALOGUE and bool(_CATALOGUE[key].higher_is_better)


def main_metric(names: Iterable[str]) -> MetricInfo | None:
    """The first distance among the names of an evaluation's metrics, or None."""
    return next((_CATALOGUE[name] for name in names if name in _CATALOGUE and _CATALOGUE[name].distance), None)


def main_distance(metrics: Mapping[str, float]) -> float:
    """The value of the main metric of an evaluation.

    Raises:
        ValueError: None of the metrics is a distance.
    """
    metric = main_metric(metrics)
    if metric is None:
        raise ValueError(f"none of {', '.join(metrics) or 'no metrics'} is a distance to the reference")
    return metrics[metric.key]


register(
    MetricInfo("fid", "FID", False, 2, distance=True, biased=True),
    MetricInfo("sfid", "sFID", False, 2, biased=True),
    MetricInfo("fid_infinity", "FID-infinity", False, 2, distance=True),
    MetricInfo("inception_score", "IS", True, 1),
    MetricInfo("kid", "KID", False, 3, 1e3, "1e-3"),
    MetricInfo("fd_dinov2", "FD-DINOv2", False, 2, distance=True, biased=True),
    MetricInfo("clip_score", "CLIP score", True, 2),
    MetricInfo("fd_digits", "FD (digits CNN)", False, 2, distance=True),
    MetricInfo("kid_digits", "KID (digits CNN)", False, 2, 1e3, "1e-3"),
    MetricInfo("precision", "precision", True, 3),
    MetricInfo("recall", "recall", True, 3),
    MetricInfo("accuracy", "accuracy", True, 1, 100, "%"),
    MetricInfo("seconds_per_image", "s/image", False, 4),
)
