"""Settings that differ only in how they are sampled and measured train once, whatever starts them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests import forked
from tests.integration.test_pipeline import ENVIRONMENT, TINY, call

STEPS = 6
SETTINGS = [*TINY, "trainer.log_every=1", "tracking=none", "trainer.device=cpu"]
SWEEP = ["-m", *SETTINGS, "guidance.scale=1,1.5,2", "solver=euler,heun"]


def only_run(cwd: Path, experiment: str = "quickstart") -> Path:
    (config,) = (cwd / "runs" / experiment).glob("*/config.yaml")
    return config.parent


def check_trained_once(run: Path) -> None:
    """Every step was taken once: it is logged once, and the training began once, from the first step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line.get("metrics", {})] == list(range(1, STEPS + 1))
    log = (run / "log.txt").read_text()
    assert log.count(": training ") == 1 and "resumed from" not in log


def rows(table: Path) -> list[list[str]]:
    """The cells of a table's header and rows."""
    lines = [line for line in table.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| :")]


def times(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.glob("evaluation/*.json")}


def check_six(cwd: Path, table: Path) -> Path:
    run = only_run(cwd)
    check_trained_once(run)
    assert len(times(run)) == 6
    header, *found = rows(table)
    assert header[:2] == ["scale", "solver"]
    settings = [[scale, solver] for scale in ("1", "1.5", "2") for solver in ("euler", "heun")]
    assert [row[:2] for row in found] == settings
    return run


@pytest.mark.slow
def test_a_sweep_of_guidance_and_solver_trains_once(tmp_path: Path) -> None:
    done = call(*SWEEP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = check_six(tmp_path, tmp_path / "runs" / "quickstart" / "table.md")
    assert done.stderr.count(" on cpu (") == 1
    before = times(run)
    assert call(*SWEEP, cwd=tmp_path).returncode == 0
    assert times(run) == before
    check_trained_once(run)


@pytest.mark.slow
def test_the_same_sweep_as_jobs_of_this_machine_is_one_job(tmp_path: Path) -> None:
    done = call(*SWEEP, "hydra/launcher=submitit_local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "runs" / "quickstart").glob("sweep-*")
    run = check_six(tmp_path, sweep / "table.md")
    assert done.stdout.startswith("1 new") and "finished" in done.stderr
    again = call(*SWEEP, "hydra/launcher=submitit_local", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.startswith("1 left as they are")
    check_trained_once(run)


@pytest.mark.slow
def test_a_kill_between_two_evaluations_repeats_neither_training_nor_evaluation(tmp_path: Path) -> None:
    process = forked.Process("run.py", *SWEEP, cwd=tmp_path, environment=ENVIRONMENT)
    process.wait_until(lambda: len(list(tmp_path.glob("runs/quickstart/*/evaluation/step*.json"))) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = only_run(tmp_path)
    recorded = json.loads((run / "status.json").read_text())["evaluations"]
    before = {name: (run / name).stat().st_mtime_ns for name in recorded}
    assert 1 <= len(before) < 6
    done = call(*SWEEP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_six(tmp_path, tmp_path / "runs" / "quickstart" / "table.md")
    assert {name: (run / name).stat().st_mtime_ns for name in recorded} == before


@pytest.mark.slow
def test_steps_of_one_training_are_rows(tmp_path: Path) -> None:
    sweep = ["-m", *SETTINGS, "trainer.keep_every=2"]
    done = call(*sweep, "sampler.step=2,4,null", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    check_trained_once(run)
    header, *found = rows(tmp_path / "runs" / "quickstart" / "table.md")
    assert header[0] == "step" and [row[0] for row in found] == ["2", "4", "6"]
    files = sorted((run / "evaluation").glob("*.json"))
    assert [file.name[:13] for file in files] == ["step_00000002", "step_00000004", "step_00000006"]
    records = [json.loads(file.read_text())["record"] for file in files]
    assert [record["step"] for record in records] == [2, 4, 6]
    assert len({str(record["settings"]) for record in records}) == 1
    # Without its checkpoint a step cannot be measured in another way, and is not trained again.
    shutil.rmtree(run / "checkpoints" / "step_00000002")
    lost = call(*sweep[1:], "sampler.step=2", "guidance.scale=3", cwd=tmp_path)
    assert lost.returncode == 2 and "no checkpoint of this step any more, and is not trained again" in lost.stderr
    assert call(*sweep[1:], "sampler.step=2", cwd=tmp_path).returncode == 0  # this evaluation exists
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    other = call(*sweep[1:], "sampler.step=4", "guidance.scale=3", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    check_trained_once(run)


@pytest.mark.slow
def test_recipes_share_a_training_and_their_tables_hold_their_own_evaluations(tmp_path: Path) -> None:
    borrowed = [*SETTINGS, "experiment=table3a", "runs_of=table3"]
    own = [*SETTINGS, "experiment=table3"]
    assert call(*borrowed, "guidance.scale=1", cwd=tmp_path).returncode == 0  # the training is made for it
    run = only_run(tmp_path, "table3")
    first = times(run)
    assert call("-m", *own, "guidance.scale=1,2", cwd=tmp_path).returncode == 0
    assert times(run) | first == times(run) and len(times(run)) == 2  # the first was there
    done = call("-m", *borrowed, "guidance.scale=2,3", "hydra/launcher=submitit_local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_trained_once(run)
    assert len(times(run)) == 3
    (sweep,) = (tmp_path / "runs" / "table3a").glob("sweep-*")
    assert not list((tmp_path / "runs" / "table3a").glob("*/config.yaml"))
    assert [row[0] for row in rows(tmp_path / "runs" / "table3" / "table.md")[1:]] == ["1", "2"]
    assert [row[0] for row in rows(sweep / "table.md")[1:]] == ["2", "3"], "those of the sweep"
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "runs", moved / "runs")
    shutil.rmtree(tmp_path / "runs")
    for name, scales in (("table3", ["1", "2"]), ("table3a", ["1", "2", "3"])):
        table = call("job=table", f"experiment={name}", f"job.output={moved}", cwd=moved)
        assert table.returncode == 0, table.stderr
        assert [row[0] for row in rows(moved / f"{name}.md")[1:]] == scales


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.step=4"], "sampler.step=4 needs a checkpoint that stays, but trainer.save_every=2"),
        (["sampler.step=3", "trainer.keep_every=3"], "both must divide the step"),
        (["sampler.step=8"], "sampler.step=8 is beyond trainer.max_steps=6"),
        (["sampler.step=0"], "sampler.step=0 must be at least 1"),
        (["runs_of=a/b"], "runs_of='a/b' must be"),
    ],
)
def test_a_step_without_a_checkpoint_is_refused_before_anything_is_written(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    done: subprocess.CompletedProcess[str] = call(*SETTINGS, *overrides, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
