"""The sweep of evaluations: in-process, one evaluation after the other, as Hydra's sweeper would call them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from PIL import Image

from pixelflow.jobs import evaluate, table
from pixelflow.reporting.curves import guidance_curve
from pixelflow.reporting.runs import Run
from pixelflow.sweeps.evaluations import EvaluationSweep
from tests.conf.test_compose import composed
from tests.unit.jobs.test_quality import checkpoint  # noqa: F401

AXES = ["checkpoint", "guidance.scale", "sampler.weights", "solver.num_steps"]


def call(sweep: EvaluationSweep, *overrides: str) -> Path:
    arguments = ["job=evaluate", *overrides]
    outcome = evaluate.JOB.start(composed(*arguments), arguments)
    returned: Any = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    returned.return_value = outcome
    sweep.on_job_end(SimpleNamespace(), returned)  # type: ignore[arg-type]
    assert len(outcome) == 2 and outcome[0] > 0
    return outcome.path


def test_table_curve_and_best(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    sweep = EvaluationSweep(output=str(tmp_path), axes=AXES)
    paths = [
        call(sweep, f"checkpoint={checkpoint}", f"guidance.scale={scale}", f"sampler.weights={weights}")
        for scale, weights in ((1.0, "ema"), (2.0, "ema"), (1.0, "model"), (1.0, "ema"))
    ]
    assert paths[0] == paths[3] and len(set(paths)) == 3
    numbers = [json.loads(path.read_text())["metrics"]["fd_digits"] for path in paths]
    assert numbers[0] == numbers[2], "the same weights, the same noise"
    failed: Any = JobReturn(overrides=["guidance.scale=9"], status=JobStatus.FAILED)
    sweep.on_job_end(SimpleNamespace(), failed)  # type: ignore[arg-type]
    sweep.on_multirun_end(SimpleNamespace(experiment="eval_sweep", debug=False, runs_dir="runs"))  # type: ignore[arg-type]
    told = (tmp_path / "eval_sweep.md").read_text()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".md", ".png", ".tex"]
    best = min(zip(numbers[:2], (1, 2), strict=True))
    assert f"Best: FD (digits CNN) {best[0]:.2f} with scale={best[1]}" in told.replace("guidance.", "")
    assert told.count("\n| ") == 2 + 3 and "scale=9: failed" in told and str(tmp_path) not in told
    assert "chosen from 3 settings with 1 evaluation of each, and not repeated" in told
    assert "Best:" in capsys.readouterr().out


def test_seeds_of_the_noise_are_averaged(checkpoint: Path, tmp_path: Path) -> None:  # noqa: F811
    sweep = EvaluationSweep(output=str(tmp_path), axes=AXES)
    jobs = [(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1), (2.0, 1)]
    paths = [call(sweep, f"checkpoint={checkpoint}", f"guidance.scale={s}", f"sampler.seed={n}") for s, n in jobs]
    numbers = [json.loads(path.read_text())["metrics"]["fd_digits"] for path in paths]
    assert len(set(numbers)) == 4
    sweep.on_multirun_end(SimpleNamespace(experiment="seeds", debug=False, runs_dir="runs"))  # type: ignore[arg-type]
    told = (tmp_path / "seeds.md").read_text()
    best = min(sum(numbers[:2]) / 2, sum(numbers[2:4]) / 2)
    assert f"Best: FD (digits CNN) {best:.2f} with" in told
    assert "chosen from 2 settings with 2 evaluations of each, and not repeated" in told


def test_a_sweep_without_results_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    EvaluationSweep(output=str(tmp_path), axes=AXES).on_multirun_end(
        SimpleNamespace(experiment="none", debug=False, runs_dir="runs")
    )  # type: ignore[arg-type]
    assert "no table of the sweep" in caplog.text and not list(tmp_path.iterdir())


def test_the_curve_has_a_line_for_each_of_the_others(tmp_path: Path) -> None:
    runs = [
        Run(f"{s} {k}", {"guidance.scale": s, "solver": k}, 0, {"fid": (s - 2) ** 2 + len(k)}, {}, "finished", None)
        for s in (1, 2, 3) for k in ("euler", "fast")
    ]  # fmt: skip
    with Image.open(guidance_curve(runs, tmp_path / "curve.png")) as image:
        assert image.size[0] > 300
    with pytest.raises(ValueError, match=r"no run has both guidance\.scale and a distance"):
        guidance_curve([Run("a", {}, 0, {"fid": 1.0}, {}, "finished", None)], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_record_is_shown_on_request() -> None:
    run = Run("mine", {}, 0, {"fid": 3.0}, {"num_samples": 10_000, "features": "inception"}, "finished", None)
    shown = table.records([run, Run("other", {}, 0, {}, {"seed": 1}, "failed", None)])
    assert "mine" in shown and "num_samples: 10000" in shown and "other" not in shown
