"""The catalogue of metrics: the label, the unit and the direction of each.

Tables, charts, searches and the model registry read it, so that each metric is described in one place only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

FULL_SAMPLE_COUNT = 50_000
"""The sample count of an FID without a suffix in its name (Heusel et al. 2017; Dhariwal & Nichol 2021)."""


@dataclass(frozen=True)
class MetricInfo:
    """How one metric is shown and compared.

    Args:
        key: Name in evaluation files.
        label: Name in tables.
        higher_is_better: None where neither direction is better.
        decimals: Decimal places, after multiplying the value by `scale`.
        scale: Factor between the stored value and the value shown.
        unit: The unit of the value shown.
        distance: Whether it is a distance between the samples and the reference. The first distance of an evaluation
            is its main metric: a search minimises it.
        biased: Whether a smaller sample count biases it upwards, so that its label names the count.

    Example:
        >>> MetricInfo("accuracy", "accuracy", higher_is_better=True, decimals=1, scale=100, unit="%").header
        'accuracy [%] ↑'
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
        """The header of a column: the label with its unit and an arrow for the direction."""
        arrow = {None: "", True: " ↑", False: " ↓"}[self.higher_is_better]
        return f"{self.label}{f' [{self.unit}]' if self.unit else ''}{arrow}"


_CATALOGUE: dict[str, MetricInfo] = {}


def register(*metrics: MetricInfo) -> None:
    """Adds metrics to the catalogue. Tables show metrics in the order in which they were registered.

    A package with a metric of its own calls this function when it is imported.

    Raises:
        ValueError: The catalogue has another description of a metric with the same key.
    """
    for metric in metrics:
        if _CATALOGUE.setdefault(metric.key, metric) != metric:
            raise ValueError(f"metric {metric.key} is already registered as {_CATALOGUE[metric.key]}")


def known_metrics() -> tuple[MetricInfo, ...]:
    """Returns all registered metrics, in the order of a table's columns."""
    return tuple(_CATALOGUE.values())


def describe(key: str) -> MetricInfo | None:
    """Returns the description of a metric, or None if it is unknown.

    The distances of a feature extractor that is not registered are described by its short name.

    Example:
        >>> describe("fd_clip").header
        'FD (clip) ↓'
    """
    if key in _CATALOGUE:
        return _CATALOGUE[key]
    kind, _, extractor = key.partition("_")
    if not extractor or extractor.startswith("infinity") or key.endswith(("_std", "_se")):
        return None
    if kind == "fd":
        return MetricInfo(key, f"FD ({extractor})", False, 2, distance=True, biased=True)
    return MetricInfo(key, f"KID ({extractor})", False, 3, 1e3, "1e-3") if kind == "kid" else None


def described(keys: Iterable[str]) -> tuple[MetricInfo, ...]:
    """Returns the known metrics among the keys, in the order of a table's columns."""
    wanted = dict.fromkeys(keys)
    registered = [metric for metric in known_metrics() if metric.key in wanted]
    others = [metric for key in wanted if key not in _CATALOGUE and (metric := describe(key))]
    return (*registered, *others)


def higher_is_better(key: str) -> bool:
    """Returns whether higher values of a metric are better; False for an unknown one."""
    metric = describe(key)
    return metric is not None and bool(metric.higher_is_better)


def main_metric(names: Iterable[str]) -> MetricInfo | None:
    """Returns the first distance among the names of an evaluation's metrics, or None."""
    return next((metric for name in names if (metric := describe(name)) and metric.distance), None)


def main_distance(metrics: Mapping[str, float]) -> float:
    """Returns the value of the main metric of an evaluation.

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
    MetricInfo("fd_shapes", "FD (shapes CNN)", False, 2, distance=True),
    MetricInfo("kid_shapes", "KID (shapes CNN)", False, 3),  # its features are larger than those of Inception
    MetricInfo("precision", "precision", True, 3),
    MetricInfo("recall", "recall", True, 3),
    MetricInfo("accuracy", "accuracy", True, 1, 100, "%"),
    MetricInfo("seconds_per_image", "s/image", False, 4),
)
