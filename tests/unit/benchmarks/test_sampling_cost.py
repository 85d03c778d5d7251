from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelflow.benchmarks.sampling_cost import ALWAYS, CONFIGURED
from pixelflow.jobs import benchmark
from tests.conf.test_compose import composed

TINY = ["experiments=benchmark_sampling", "backbone=pixelflow_tiny", "backbone.depth=1", "solver.num_steps=2"]


def test_benchmark_writes_json_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, f"job.output={tmp_path}", "job.machine=here"]
    path = tmp_path / "benchmark_here.json"
    path.write_text(json.dumps({"training": {"kept": 1}}))
    benchmark.JOB.start(composed(*arguments), arguments)
    written = json.loads(path.read_text())
    assert written["training"] == {"kept": 1}
    result = written["sampling"]
    ours, always = (result["variants"][name] for name in (CONFIGURED, ALWAYS))
    assert [stage["forward_passes"] for stage in ours["stages"]] == [2, 4, 4, 4]
    assert [stage["forward_passes"] for stage in always["stages"]] == [4, 4, 4, 4]
    assert result["passes_ratio"] == 7 / 8  # the coarsest of four stages is not guided
    assert result["command"].startswith("python run.py experiments=benchmark_sampling")
    assert ours["seconds_per_image"] >= sum(stage["seconds"] for stage in ours["stages"])
    assert ours["tflop"] < always["tflop"] and 0 < ours["utilisation"] < 1.5
    table = (tmp_path / "benchmark_here.md").read_text()
    assert "| always guided | 64 |" in table and "0.8750" in table
    assert table in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["job.images=0", "job.repeats=many"])
def test_mistakes(setting: str) -> None:
    with pytest.raises(ValueError, match=setting.split("=")[0]):
        composed(*TINY, setting)


@pytest.mark.slow
def test_what_logging_costs_whatever_mlflow_does(tmp_path: Path) -> None:
    arguments = [
        "job=benchmark",
        "job.part=logging",
        f"job.output={tmp_path}",
        "job.machine=here",
        "trainer.device=cpu",
    ]
    arguments += ["data=shapes", "data.image_size=16", "cascade.num_stages=2", "backbone=pixelflow_tiny"]
    arguments += ["backbone.depth=1", "trainer.max_steps=8", "trainer.batch_size=4", "trainer.log_every=4"]
    benchmark.JOB.start(composed(*arguments), arguments)
    result = json.loads((tmp_path / "benchmark_here.json").read_text())["logging"]
    assert [*result["runs"]] == ["without_mlflow", "working", "stopped", "hung"]
    for (run,) in result["runs"].values():
        assert run["calls"] == 2 and 0 < run["percent"] < 100 and run["milliseconds_per_call"] > 0


def test_training_steps_beside_two_plain_references(tmp_path: Path) -> None:
    arguments = [
        "job=benchmark",
        "job.part=training",
        f"job.output={tmp_path}",
        "job.machine=here",
        "trainer.device=cpu",
    ]
    arguments += ["data=shapes", "data.image_size=16", "cascade.num_stages=2", "backbone=pixelflow_tiny"]
    arguments += ["backbone.depth=1", "trainer.batch_size=4"]
    benchmark.JOB.start(composed(*arguments), arguments)
    result = json.loads((tmp_path / "benchmark_here.json").read_text())["training"]
    kinds = ["ours", "reference", "by_stage", "noise_by_batch", "noise_in_loader"]
    assert {kind: len(seconds) for kind, seconds in result["seconds_per_step"].items()} == dict.fromkeys(kinds, 1)
    least = {kind: seconds[0] for kind, seconds in result["seconds_per_step"].items()}
    assert result["summary"]["ratio"] == pytest.approx(least["reference"] / least["ours"])
    assert result["summary"]["ratio_by_stage"] == pytest.approx(least["by_stage"] / least["ours"])
