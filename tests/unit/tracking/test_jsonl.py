from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelflow.errors import WorkFailed
from pixelflow.tracking.jsonl import MetricsLog, history, read_records


def records(path: Path) -> list[dict]:
    return [record for record, _ in read_records(path)]


def test_lines_have_the_documented_form(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    with MetricsLog(tmp_path) as log:
        log.params({"backbone.depth": 2, "data.path": Path("/data"), "solver": None, "shift": [1, 2]})
        log.metrics({"loss": torch.tensor(0.5), "lr": np.float32(0.25), "epoch": 3}, step=np.int64(7))
        log.tags({"experiment": "quickstart"})
        log.artifact(tmp_path / "figures" / "grid.png")
        log.status("FINISHED")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("time") > 1.6e9 for line in lines)
    assert lines == [
        {"params": {"backbone.depth": 2, "data.path": "/data", "solver": None, "shift": [1, 2]}},
        {"step": 7, "metrics": {"loss": 0.5, "lr": 0.25, "epoch": 3.0}},
        {"tags": {"experiment": "quickstart"}},
        {"artifact": "figures/grid.png"},
        {"status": "FINISHED"},
    ]


def test_numbers_survive_exactly_non_finite_ones_too_in_strict_json(tmp_path: Path) -> None:
    values = {"third": 1 / 3, "tiny": 5e-324, "up": math.inf, "down": -math.inf, "nan": math.nan}
    with MetricsLog(tmp_path) as log:
        log.metrics(values, step=1)
        log.params({"clip": math.inf, "nested": [math.nan]})
    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    read = records(log.path)[0]["metrics"]
    assert math.isnan(read.pop("nan")) and math.isnan(values.pop("nan"))
    assert read == values
    assert records(log.path)[1]["params"] == {"clip": "Infinity", "nested": ["NaN"]}


def test_a_line_is_in_the_file_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(3):
        log.metrics({"loss": 1.0}, step=step)
        assert len(records(log.path)) == step + 1
    log.close()


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_after_a_cut_line_a_fresh_one_begins(tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture) -> None:
    with MetricsLog(tmp_path) as log:
        log.metrics({"loss": 1.0}, step=1)
        size = log.path.stat().st_size
        log.metrics({"loss": 2.0}, step=2)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[: size + keep] if keep > 0 else whole[:keep])
    with MetricsLog(tmp_path) as log:
        log.metrics({"loss": 3.0}, step=3)
    # keep = -1 cuts the line's end alone, and nothing of the record.
    assert history(log.path)["loss"] == ([(1, 1.0), (3, 3.0)] if keep > 0 else [(1, 1.0), (2, 2.0), (3, 3.0)])
    assert ("cut or broken" in caplog.text) == (keep > 0)


def test_a_write_that_is_cut_by_a_full_disk_raises_and_the_next_line_is_whole(tmp_path: Path) -> None:
    class FullDisk:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, line: bytes) -> int:
            return self.file.write(line[:10])

    log = MetricsLog(tmp_path)
    file, log._file = log._file, FullDisk(log._file)  # type: ignore[assignment]
    with pytest.raises(WorkFailed, match="only a part of the line"):
        log.metrics({"loss": 1.0}, step=1)
    log._file = file
    log.metrics({"loss": 2.0}, step=2)
    log.close()
    assert history(log.path) == {"loss": [(2, 2.0)]}


@pytest.mark.parametrize(
    "broken",
    [
        b"\xff\xfe",
        b"[1, 2]",
        b"7",
        b'"metrics"',
        b'{"step": 1, "metrics": {"loss": 1}}',
        b'{"time": 1.0, "step": 1, "metrics": [1]}',
        b'{"time": 1.0, "metrics": {"loss": 1}}',
        b'{"time": 1.0, "step": 1, "metrics": {"loss": "high"}}',
    ],
)
def test_broken_lines_are_skipped_with_a_warning(
    tmp_path: Path, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    good = b'{"time": 1.0, "step": 1, "metrics": {"loss": 2.0}}'
    path.write_bytes(broken + b"\n\n" + good + b"\n")
    assert history(path) == {"loss": [(1, 2.0)]}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    caplog.clear()
    assert [end for _, end in read_records(path, warn=False)] == [path.stat().st_size]
    assert not caplog.records


def test_reading_goes_on_where_it_stopped_even_within_a_line(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(5):
            log.metrics({"loss": float(step)}, step=step)
    whole, growing = log.path.read_bytes(), tmp_path / "growing.jsonl"
    steps, offset = [], 0
    for size in range(0, len(whole) + 1, 7):  # a writer whose line is seen in pieces
        growing.write_bytes(whole[:size])
        for record, end in read_records(growing, offset, warn=False):
            steps.append(record["step"])
            offset = end
    growing.write_bytes(whole)
    steps += [record["step"] for record, _ in read_records(growing, offset)]
    assert steps == [0, 1, 2, 3, 4]


def test_a_resumed_run_does_not_log_its_repeated_steps_again(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.params({"a": 1})
        for step in range(1, 8):
            log.metrics({"loss": float(step)}, step=step)
        log.metrics({"validation": 0.5}, step=6)
    with MetricsLog(tmp_path) as log:
        log.resume_from(4)
        for step in range(5, 10):
            log.metrics({"loss": float(step)}, step=step)
        # New names at old steps, and old steps that are not repeated, are news.
        log.metrics({"loss": -1.0, "fresh": 1.0}, step=6)
        log.metrics({"validation": 0.4}, step=4)
    logged = [(name, r["step"]) for r in records(log.path) if "metrics" in r for name in r["metrics"]]
    assert sorted(logged) == sorted(
        [("loss", step) for step in range(1, 10)] + [("validation", 6), ("fresh", 6), ("validation", 4)]
    )


def test_history_takes_the_last_value_of_a_step_and_sorts(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step, value in [(3, 1.0), (1, 2.0), (3, 4.0)]:
            log.metrics({"fd": value}, step=step)
    assert history(log.path) == {"fd": [(1, 2.0), (3, 4.0)]}


def test_an_artifact_must_be_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    with MetricsLog(folder) as log:
        with pytest.raises(ValueError, match="copy it there first"):
            log.artifact(tmp_path / "elsewhere.png")
        monkeypatch.chdir(tmp_path)
        log.artifact(Path("run/config.yaml"))
    assert [record["artifact"] for record in records(log.path)] == ["config.yaml"]


def test_only_mlflows_words_for_an_end(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log, pytest.raises(ValueError, match="KILLED"):
        log.status("finished")  # type: ignore[arg-type]
    assert not records(log.path)
