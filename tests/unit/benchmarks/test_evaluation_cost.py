from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelflow.benchmarks import evaluation_cost
from pixelflow.jobs import benchmark_metrics
from tests.conf.test_compose import composed


def test_it_measures_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_cost, "FEATURES", 32)
    path = tmp_path / "out.json"
    sizes = ["job.images=30", "job.passes=20", "job.side=16", "job.batch_size=10"]
    benchmark_metrics.JOB.start(composed("job=benchmark_metrics", *sizes, f"job.output={path}"), [])
    found = json.loads(path.read_text())
    assert found["forward_seconds"] > 0 and found["update_seconds"] > 0
    share = (found["update_seconds"] + found["compute_seconds"]) / found["forward_seconds"]
    assert found["whole_over_forward"] == pytest.approx(1 + share)
    assert found["relative_difference"] < 1e-6 and "fd_digits" in found["metrics"]


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"job\.images=3 must be at least 10"):
        composed("job=benchmark_metrics", "job.images=3")
