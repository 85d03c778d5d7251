"""job=compare on run folders that a model and a few lines make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

import pixelflow
from pixelflow.errors import UserError
from pixelflow.jobs import find_job
from pixelflow.reporting.side_by_side import as_columns, differences


def run_folder(folder: Path, *, num_steps: int, image_size: int) -> Path:
    """A run with a checkpoint of fresh weights and two losses."""
    model = pixelflow.build(
        image_size=image_size, num_classes=10, channels=1, num_stages=2, depth=1, num_heads=1, head_dim=16
    )
    model.save(folder / "checkpoints" / "step_00000003")
    solver = {"num_steps": num_steps, "grid": "reference"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "solver": solver}))
    lines = [{"step": step, "time": 0.0, "metrics": {"loss": 1 / step}} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_folder(tmp_path / name, num_steps=n, image_size=n) for name, n in (("one", 8), ("two", 16))]
    config = {
        "runs": [str(run) for run in runs], "trainer": {"device": "cpu"}, "sampler": {"seed": 0}, "trust": [],
        "job": {"name": "compare", "output": str(tmp_path / "out")},
    }  # fmt: skip
    find_job("compare").start(config, [])
    folder = tmp_path / "out" / "one_and_two"
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "key               one  two",
        "solver.num_steps  8    16",
        "",
        f"learning curves: {folder / 'loss.png'}",
        f"samples: {folder / 'samples.png'}",
    ]
    with Image.open(folder / "samples.png") as picture:
        assert picture.height == 18 + 6 * 49 - 1  # three noises, a line of each run, and the classes above


def test_a_run_without_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
    config = {
        "runs": [str(tmp_path / "one"), str(tmp_path / "two")], "trainer": {"device": "cpu"}, "sampler": {"seed": 0},
        "trust": [], "job": {"name": "compare", "output": str(tmp_path / "out")},
    }  # fmt: skip
    find_job("compare").start(config, [])
    out = capsys.readouterr().out
    assert "the settings of the runs are equal" in out
    assert "learning curves: none, no finite loss" in out and "samples: none, " in out


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], r"runs=\[\] must name two run folders or more"),
        (["nowhere", "nowhere"], "runs: nowhere is not a run folder"),
    ],
)
def test_mistakes(runs: list[str], message: str) -> None:
    job = find_job("compare")
    with pytest.raises(UserError, match=message):
        job.check({"runs": runs}, job.read({"name": "compare"}))


def test_differences_of_settings() -> None:
    found = differences([{"a": {"x": 1}, "b": "same"}, {"a": {"x": 2}, "b": "same", "c": [1]}])
    assert found == {"a.x": ["1", "2"], "c": ["-", "[1]"]}
    assert as_columns(found, ["key", "A", "B"]) == "key  A  B\na.x  1  2\nc    -  [1]"
