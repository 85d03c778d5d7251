"""hydra/sweeper=sampler_search, with a launcher that invents the evaluations, and once as the command does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from pixelflow.config.sampler_search import SamplerSearch
from pixelflow.errors import Interrupted, UserError, WorkFailed
from tests.unit.jobs.test_quality import TINY, checkpoint  # noqa: F401

ROOT = Path(__file__).resolve().parents[3]
Evaluate = Callable[[dict[str, str]], Any]
"""Returns the distance, or raises."""


class Basic:
    """Evaluates with a function, as BasicLauncher does; `asked` are the settings in order."""

    def __init__(self, evaluate: Evaluate, folder: Path) -> None:
        self.evaluate, self.folder = evaluate, folder
        self.asked: list[dict[str, str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        return [self._one(list(overrides)) for overrides in job_overrides]

    def _one(self, overrides: list[str]) -> JobReturn:
        given = dict(override.split("=", 1) for override in overrides)
        self.asked.append(given)
        done: Any = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        try:
            distance = self.evaluate(given)
        except Interrupted:
            raise
        except Exception as error:
            done.status, done.return_value = JobStatus.FAILED, error
            return done
        path = self.folder / f"{len(self.asked)}.json"
        record = {
            "tflop_per_image": float(given["steps"]), "forward_passes_per_image": 2 * int(given["steps"]),
            "seed": int(given.get("sampler.seed", 0)), "num_samples": int(given["sampler.num_samples"]),
        }  # fmt: skip
        path.write_text(json.dumps({"metrics": {"fd_digits": distance}, "record": record}))
        done.return_value = SimpleNamespace(path=path)
        return done


def search(evaluate: Evaluate, tmp_path: Path, settings: Sequence[int], **confirm: Any) -> tuple[SamplerSearch, Basic]:
    """A search whose sampler proposes `settings`, and its launcher."""
    report = {"output": str(tmp_path / "out"), "keys": ["steps"], "series": "steps"}
    made = SamplerSearch(
        OmegaConf.create(confirm), OmegaConf.create(report), sampler=None, direction=["minimize"] * 2, storage=None,
        study_name=None, n_trials=1, n_jobs=1, max_failure_rate=1.0, search_space=None, custom_search_space=None,
        params=None,
    )  # fmt: skip
    launcher = Basic(evaluate, tmp_path)
    made.launch = launcher.launch

    def sweep(arguments: list[str]) -> None:
        for n in settings:
            made._launch([[f"steps={n}", "sampler.num_samples=20"]], 0)

    made.sweeper = SimpleNamespace(sweep=sweep, job_idx=len(settings))
    overrides = SimpleNamespace(hydra=["hydra.mode=MULTIRUN", "hydra.sweeper.n_trials=9"], task=["checkpoint=/secret"])
    made.config = SimpleNamespace(
        experiment="mine", debug=False, runs_dir="runs", hydra=SimpleNamespace(overrides=overrides)
    )  # type: ignore
    return made, launcher


def test_the_front_is_evaluated_again_with_other_noise(tmp_path: Path) -> None:
    def lucky(given: dict[str, str]) -> float:
        """Setting 2 had luck in its trial; setting 3 is the best."""
        known = {"1": 9.0, "2": 1.0 if given.get("sampler.seed") is None else 8.0, "3": 5.0, "9": 0.9}
        return known[given["steps"]] + 0.01 * int(given.get("sampler.seed", 0)) * int(given["steps"])

    made, launcher = search(lucky, tmp_path, [3, 2, 1, 2], seeds=2, num_samples=50)
    made.sweep([])
    again = [(g["steps"], g["sampler.seed"], g["sampler.num_samples"]) for g in launcher.asked[4:]]
    assert again == [("1", "1", "50"), ("1", "2", "50"), ("2", "1", "50"), ("2", "2", "50")]
    text = (tmp_path / "out" / "mine.md").read_text()
    assert "Chosen from 3 trials on 20 images each; repeated with seeds 1, 2 on 50 images each. B has the least" in text
    assert (
        "`python run.py -m experiments=mine hydra.sweeper.n_trials=9 checkpoint=...`" in text and "secret" not in text
    )


def test_a_failure_and_a_distance_that_is_not_a_number_are_reported(tmp_path: Path) -> None:
    def evaluate(given: dict[str, str]) -> float:
        if given["steps"] == "1":
            raise WorkFailed("samples 0 to 19 are not finite")
        if given["steps"] == "3" and "sampler.seed" in given:
            raise WorkFailed("no room")
        return {"2": float("nan"), "3": 5.0, "4": 4.0}[given["steps"]]

    made, _ = search(evaluate, tmp_path, [1, 2, 3, 4])
    made.sweep([])
    text = (tmp_path / "out" / "mine.md").read_text()
    assert "Chosen from 2 trials" in text and "There is one candidate, B: `steps=4`" in text
    assert "- steps=1: samples 0 to 19 are not finite" in text and "- steps=2: the distance is nan" in text
    assert "- steps=3 sampler.seed=1: no room" in text


def test_a_search_without_results(tmp_path: Path) -> None:
    def evaluate(given: dict[str, str]) -> float:
        raise WorkFailed("the disk is full")

    made, _ = search(evaluate, tmp_path, [1, 2])
    with pytest.raises(WorkFailed, match="no trial of the search was finished: steps=1: the disk is full"):
        made.sweep([])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [UserError("solver.x is unknown"), Interrupted("3 images are kept")])
def test_a_mistake_or_an_interruption_ends_the_search(error: Exception, tmp_path: Path) -> None:
    def evaluate(given: dict[str, str]) -> float:
        raise error

    made, launcher = search(evaluate, tmp_path, [1, 2])
    with pytest.raises(type(error), match=str(error)):
        made.sweep([])
    assert len(launcher.asked) == 1


def test_mistakes_in_its_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.confirm\.seeds=1 must be at least 2"):
        search(lambda given: 1.0, tmp_path, [1], seeds=1)
    with pytest.raises(UserError, match=r"hydra\.sweeper\.confirm\.seed; did you mean hydra\.sweeper\.confirm\.seeds"):
        search(lambda given: 1.0, tmp_path, [1], seed=1)


def command(checkpoint: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:  # noqa: F811
    arguments = [
        *("experiments=inference_search", f"checkpoint={checkpoint}", f"runs_dir={folder}", *TINY[2:3], *more),
        *("hydra.sweeper.n_trials=2", "hydra.sweeper.confirm.seeds=2", "hydra.sweeper.confirm.num_samples=12"),
        f"hydra.sweeper.report.output={folder / 'out'}",
    ]
    run = [sys.executable, str(ROOT / "run.py"), "-m", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_same_command_repeats_no_evaluation(checkpoint: Path, tmp_path: Path) -> None:  # noqa: F811
    """Without the repetitions' files it is in the state of a search that was killed after its trials."""
    first = command(checkpoint, tmp_path)
    assert first.returncode == 0, first.stderr
    report = json.loads((tmp_path / "out" / "inference_search.json").read_text())
    assert len(report["trials"]) == 2 and all(t["tflop"] > 0 and t["seed"] == 0 for t in report["trials"])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("evaluation/*.json")}
    seeds = {path: json.loads(path.read_text())["record"]["seed"] for path in files}
    lost = [path for path, seed in seeds.items() if seed == 2]
    assert len(files) == 2 + 2 * len(report["repeated"]) and len(lost) == len(report["repeated"]) > 0
    for path in lost:
        path.unlink()
    second = command(checkpoint, tmp_path)
    assert second.returncode == 0, second.stderr
    assert json.loads((tmp_path / "out" / "inference_search.json").read_text()) == report
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("evaluation/*.json")}
    assert {path for path in after if after[path] != files[path]} == set(lost) and after.keys() == files.keys()


def test_it_needs_an_evaluation_in_this_process(checkpoint: Path, tmp_path: Path) -> None:  # noqa: F811
    refused = command(checkpoint, tmp_path, "hydra/launcher=local")
    assert refused.returncode == 2 and "hydra/sweeper=sampler_search needs hydra/launcher=basic" in refused.stderr
