"""The catalogue decides which metric is the distance, and refuses two descriptions of one metric."""

from __future__ import annotations

import pytest

from pixelflow.metrics.catalogue import MetricInfo, known_metrics, main_distance, main_metric, register


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
    with pytest.raises(ValueError, match="metric fid is described already"):
        register(MetricInfo("fid", "another", True, 1))
