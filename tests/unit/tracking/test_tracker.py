from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pixelflow.tracking.jsonl import history, read_records
from pixelflow.tracking.tracker import Tracker


class Mirror:
    """Stands in for an MLflowMirror: what counts here is when it is closed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self.seen_at_close: list[str] = []

    def close(self, timeout: float = 10.0) -> int:
        self.seen_at_close = [record.get("status", "") for record, _ in read_records(self.path)]
        return 0


def test_everything_reaches_the_file_and_the_mirror_closes_last(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    tracker = Tracker(folder=tmp_path, mirror=mirror)  # type: ignore[arg-type]
    tracker.params({"a": 1})
    tracker.tags({"b": "c"})
    tracker.artifact(tmp_path / "config.yaml")
    tracker.log({"loss": 0.5}, 1)
    tracker.finish("FAILED")
    kinds = [set(record) - {"time", "step"} for record, _ in read_records(tmp_path / "metrics.jsonl")]
    assert kinds == [{"params"}, {"tags"}, {"artifact"}, {"metrics"}, {"status"}]
    assert mirror.seen_at_close[-1] == "FAILED"
    with pytest.raises(ValueError, match="closed"):
        tracker.log({"loss": 0.5}, 2)


def test_system_metrics_travel_with_the_first_line_and_then_when_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 9.9, 10.0, 15.0, 30.0])
    monkeypatch.setattr("pixelflow.tracking.tracker.time", SimpleNamespace(monotonic=lambda: next(clock)))
    tracker = Tracker(folder=tmp_path, system_metrics_every=10.0)
    for step in range(6):
        tracker.log({"loss": 1.0}, step)
    values = history(tmp_path / "metrics.jsonl")
    assert [step for step, _ in values["loss"]] == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in values["system/cpu_utilization_percentage"]] == [0, 3, 5]


def test_resuming_is_passed_on(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        tracker = Tracker(folder=tmp_path)
        tracker.resume_from(0)
        tracker.log({"eval/accuracy": value}, 0)  # of the checkpoint: the evaluation is done again
        tracker.log({"loss": value}, 1)
        tracker.finish("KILLED")
    logged = [record["metrics"] for record, _ in read_records(tmp_path / "metrics.jsonl") if "metrics" in record]
    assert [values[name] for values in logged for name in values if "/" not in name] == [1.0]
    assert [values[name] for values in logged for name in values if name.startswith("eval/")] == [1.0]


def test_one_sample_of_the_machine_a_step(tmp_path: Path) -> None:
    """The evaluation after the last step logs for that step, and MLflow would show two values."""
    tracker = Tracker(folder=tmp_path, system_metrics_every=0.0)
    tracker.log({"loss": 1.0}, 5)
    tracker.log({"eval/accuracy": 1.0}, 5)
    logged = [record["metrics"] for record, _ in read_records(tmp_path / "metrics.jsonl") if "metrics" in record]
    assert sum("system/cpu_utilization_percentage" in values for values in logged) == 1
