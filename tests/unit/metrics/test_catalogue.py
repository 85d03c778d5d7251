"""The catalogue decides which metric is the distance, and refuses two descriptions of one metric."""

from __future__ import annotations

import pytest

from pixelflow.metrics import catalogue
from pixelflow.metrics.catalogue import (
    MetricInfo,
    describe,
    described,
    higher_is_better,
    known_metrics,
    main_distance,
    main_metric,
    register,
)


def test_the_first_distance_of_an_evaluation_is_its_main_metric() -> None:
    assert main_distance({"precision": 0.7, "fd_digits": 0.3, "recall": 0.9}) == 0.3
    assert main_distance({"fid": 2.0, "sfid": 1.0, "fd_dinov2": 100.0}) == 2.0
    assert main_metric(["kid", "seconds_per_image"]) is None
    with pytest.raises(ValueError, match="none of precision is a distance"):
        main_distance({"precision": 0.7})


def test_every_distance_is_better_when_lower() -> None:
    assert all(metric.higher_is_better is False for metric in known_metrics() if metric.distance)


def test_a_metric_is_described_once() -> None:
    before = known_metrics()
    register(before[0])  # the same description again changes nothing
    assert known_metrics() == before
    with pytest.raises(ValueError, match="metric fid is already registered as"):
        register(MetricInfo("fid", "another", True, 1))


def test_the_distances_of_an_unregistered_extractor_are_described_by_its_name() -> None:
    values = {"fd_mine": 3.0, "kid_mine": 0.1, "kid_mine_std": 0.2, "fd_infinity_mine": 2.0, "num_samples": 9.0}
    assert main_distance(values) == 3.0
    assert [(metric.key, metric.header) for metric in described(values)] == [
        ("fd_mine", "FD (mine) ↓"), ("kid_mine", "KID (mine) [1e-3] ↓"),
    ]  # fmt: skip
    assert [describe(key) for key in ("kid_std", "kid_se", "kid_digits_se", "fd", "fd_", "fvd_mine")] == [None] * 6
    assert main_distance({"fd_base": 1.0}) == 1.0
    # Registered metrics come first, in the order of the catalogue.
    assert [metric.key for metric in described(["fd_mine", "recall", "fid"])] == ["fid", "recall", "fd_mine"]


def test_a_metric_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_CATALOGUE", dict(catalogue._CATALOGUE))
    assert (higher_is_better("ssim"), describe("ssim")) == (False, None)
    register(MetricInfo("ssim", "SSIM", higher_is_better=True, decimals=3))
    assert higher_is_better("ssim")
    assert known_metrics()[-1].header == "SSIM ↑"
