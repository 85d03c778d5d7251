"""run.py and evaluate.py as a user calls them: one tiny run of the whole pipeline, its errors and its interruptions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("trainer.max_steps=6", "trainer.batch_size=8", "trainer.save_every=2", "trainer.log_every=2"),
    *("trainer.grid_every=0", "trainer.warmup_steps=0", "backbone.depth=1", "solver.num_steps=2"),
    *("sampler.num_samples=20", "sampler.batch_size=10"),
]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}


def call(*arguments: str, cwd: Path, script: str = "run.py") -> subprocess.CompletedProcess[str]:
    return forked.call(script, *arguments, cwd=cwd, environment=ENVIRONMENT)


@dataclass(frozen=True)
class Finished:
    cwd: Path
    folder: Path
    output: str
    errors: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run, made by a new interpreter from a folder that is not the checkout."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, str(ROOT / "run.py"), *TINY]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = [p for p in (cwd / "runs" / "quickstart").iterdir() if p.is_dir()]
    return Finished(cwd, folder, done.stdout, done.stderr)


def test_every_file_of_a_run_exists(finished: Finished) -> None:
    for name in (
        "config.yaml", "provenance.json", "status.json", "metrics.jsonl", "log.txt", "figures/samples.png",
        "figures/loss.png", "checkpoints/step_00000006/state.json", "checkpoints/step_00000004/model.safetensors",
    ):  # fmt: skip
        assert (finished.folder / name).exists(), name
    assert not (finished.folder / "checkpoints" / "step_00000002").exists()  # keep_checkpoints=2
    status = json.loads((finished.folder / "status.json").read_text())
    assert (status["state"], status["step"], status["max_steps"]) == ("finished", 6, 6)
    assert "| quickstart |" in finished.output
    assert "mlflow ui --backend-store-uri sqlite:///" in finished.output
    assert str(finished.folder.relative_to(finished.cwd)) in finished.output


def test_the_log_holds_all_that_the_terminal_showed(finished: Finished) -> None:
    log = (finished.folder / "log.txt").read_text()
    for line in (finished.output + finished.errors).splitlines():
        assert line in log
    assert "\nstep 6/6  loss " in log and "(stages " in log and "\nimage 20/20  " in log


def test_the_record_says_how_the_numbers_came_about(finished: Finished) -> None:
    (file,) = (finished.folder / "evaluation").glob("step_00000006*.json")
    content = json.loads(file.read_text())
    assert {"fd_digits", "kid_digits", "precision", "recall", "accuracy"} <= set(content["metrics"])
    record = content["record"]
    assert record["step"] == 6 and record["num_samples"] == 20 and record["weights"] == "ema"
    assert record["nfe"] == 4  # two stages of two steps
    assert record["forward_passes_per_image"] == 2 + 4  # stage-wise guidance leaves the first stage unguided
    assert 0 < record["tflop_per_image"] < 0.01
    assert record["solver"]["num_steps"] == 2 and record["guidance"]["scale"] == 2.0
    assert record["features"] == "digits-cnn" and "1500 images" in record["reference"]
    assert "torch" in record["versions"] and "checkpoint" in record and record["seed"] == 0


def test_samples_are_balanced_and_in_the_adm_form(finished: Finished) -> None:
    (file,) = finished.folder.glob("samples/step_00000006*/images.npz")
    with np.load(file) as archive:
        assert archive["arr_0"].shape == (20, 16, 16, 3) and archive["arr_0"].dtype == np.uint8
        assert np.bincount(archive["arr_1"]).tolist() == [2] * 10


def test_the_same_command_again_reports_the_finished_run(finished: Finished) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*") if p.is_file()}
    again = call(*TINY, cwd=finished.cwd)
    assert again.returncode == 0
    assert "already there" in again.stdout and "| quickstart |" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in finished.folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_another_guidance_is_measured_on_the_same_weights(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.cwd / "runs", tmp_path / "runs")
    (folder,) = [p for p in (tmp_path / "runs" / "quickstart").iterdir() if p.is_dir()]
    weights = folder / "checkpoints" / "step_00000006" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    done = call(*TINY, "guidance.scale=3", "tracking=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p for p in (tmp_path / "runs" / "quickstart").iterdir() if p.is_dir()] == [folder]
    assert weights.stat().st_mtime_ns == before and "training is done" in done.stderr
    files = sorted((folder / "evaluation").glob("step_00000006-*.json"))
    records = [json.loads(file.read_text())["record"] for file in files]
    assert {record["guidance"]["scale"] for record in records} == {2.0, 3.0}
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| 2", "| 3"))]
    assert len(rows) == 2, done.stdout
    again = call(*TINY, "guidance.scale=3", "tracking=none", cwd=tmp_path)
    assert "already there" in again.stdout


def test_mlflow_mirrors_the_run(finished: Finished) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.cwd / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == finished.folder.name
    assert run.data.params["backbone.depth"] == "1"
    assert run.data.tags["mlflow.source.name"] == "run.py" and run.data.tags["trainer.max_steps"] == "6"
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    ours = [(line["step"], line["metrics"]["loss"]) for line in lines if "loss" in line.get("metrics", {})]
    theirs = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(theirs) == sorted(ours) and len(ours) == 3
    assert {"eval/fd_digits", "eval/accuracy"} <= set(run.data.metrics)
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id, "figures")}
    assert artifacts == {"figures/samples.png", "figures/loss.png"}


def test_evaluate_a_checkpoint_with_another_solver_setting(finished: Finished) -> None:
    checkpoint = finished.folder / "checkpoints" / "step_00000004"
    done = call(
        f"checkpoint={checkpoint}", "solver.num_steps=1", "guidance=none", cwd=finished.cwd, script="evaluate.py"
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(Path(done.stdout.split("record: ")[1].strip()).read_text())
    assert content["record"]["step"] == 4
    assert content["record"]["nfe"] == content["record"]["forward_passes_per_image"] == 2
    assert content["record"]["num_samples"] == 20  # the checkpoint's own setting
    again = call(*TINY, cwd=finished.cwd)
    assert "nfe 4" in again.stdout  # the run's row is still that of its own evaluation


def test_evaluate_images(finished: Finished, tmp_path: Path) -> None:
    (file,) = finished.folder.glob("samples/step_00000006*/images.npz")
    shutil.copy(file, tmp_path / "mine.npz")
    done = call(f"samples={tmp_path / 'mine.npz'}", cwd=tmp_path, script="evaluate.py")
    assert done.returncode == 0, done.stderr
    ours = json.loads(next((finished.folder / "evaluation").glob("step_00000006*.json")).read_text())["metrics"]
    theirs = json.loads((tmp_path / "mine.npz.evaluation.json").read_text())["metrics"]
    assert theirs["fd_digits"] == pytest.approx(ours["fd_digits"], rel=1e-9)


def test_a_truncated_checkpoint(finished: Finished, tmp_path: Path) -> None:
    broken = tmp_path / "step_00000006"
    shutil.copytree(finished.folder / "checkpoints" / "step_00000006", broken)
    with open(broken / "ema.safetensors", "r+b") as stream:
        stream.truncate(1000)
    done = call(f"checkpoint={broken}", cwd=tmp_path, script="evaluate.py")
    assert done.returncode == 2
    assert "ema.safetensors has 1000 bytes instead of" in done.stderr and "truncated" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000006"]


def test_a_mistake_exits_with_2_and_writes_nothing(tmp_path: Path) -> None:
    done = call("cascade.num_stages=9", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: cascade.num_stages=9 needs")
    assert list(tmp_path.iterdir()) == []


def test_table_of_an_experiment(finished: Finished, tmp_path: Path) -> None:
    done = call("job=table", f"job.output={tmp_path}", cwd=finished.cwd)
    assert done.returncode == 0, done.stderr
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".md", ".png", ".tex"]
    assert "python run.py job=table" in (tmp_path / "quickstart.md").read_text()
    from_mlflow = call("job=table", "job.source=mlflow", f"job.output={tmp_path / 'mlflow'}", cwd=finished.cwd)
    assert from_mlflow.returncode == 0, from_mlflow.stderr
    assert (tmp_path / "mlflow" / "quickstart.csv").read_text() == (tmp_path / "quickstart.csv").read_text()


def test_table_for_a_paper_of_several_experiments(finished: Finished, tmp_path: Path) -> None:
    named = ["job.experiments=[quickstart]", "job.paper=true", "job.file=mine", "question='Does it run?'"]
    done = call("job=table", f"job.output={tmp_path}", *named, cwd=finished.cwd)
    assert done.returncode == 0, done.stderr
    assert "\\caption{Does it run?}" in (tmp_path / "mine.paper.tex").read_text()
    assert "![Does it run?](mine.png)" in (tmp_path / "mine.readme.md").read_text()
    done = call("job=table", "job.experiments=[quikstart]", cwd=finished.cwd)
    assert done.returncode == 2 and done.stderr.startswith("error: job.experiments: 'quikstart' is neither")
    assert "there are quickstart" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_an_unreachable_mlflow_server_does_not_stop_the_run(tmp_path: Path) -> None:
    done = call(*TINY, "tracking.uri=http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("127.0.0.1:9") in (1, 2)  # one warning, and one line about what is unsent
    assert "| quickstart |" in done.stdout


@pytest.mark.slow
def test_the_same_command_again_sends_what_mlflow_missed(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder of the database should be")
    command = [*TINY, f"tracking.uri=sqlite:///{blocked / 'mlflow.db'}"]
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 0 and "not in MLflow" in done.stderr, done.stderr
    blocked.unlink()
    blocked.mkdir()
    again = call(*command, cwd=tmp_path)
    assert "already there" in again.stdout and "records to MLflow that were missing there" in again.stderr, again.stderr
    assert "records to MLflow" not in call(*command, cwd=tmp_path).stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])  # SIGUSR2: the tests of SLURM
def test_a_stop_and_a_resume_give_the_same_weights(number: signal.Signals, tmp_path: Path) -> None:
    longer = [*TINY, "trainer.max_steps=400", "trainer.save_every=10", "tracking=none", "job=train"]
    process = forked.Process("run.py", *longer, cwd=tmp_path)
    process.wait_until(lambda: list(tmp_path.glob("runs/quickstart/*/checkpoints/step_*[1-9]0")))
    process.send_signal(number)
    status = process.wait()
    (folder,) = tmp_path.glob("runs/quickstart/*")
    assert not (folder / "checkpoints" / "step_00000400").exists(), "it ended before it was stopped"
    if number is not signal.SIGKILL:  # it saved, and says that it is to be continued
        state = json.loads((folder / "status.json").read_text())
        assert status == 75 and state["state"] == "interrupted"
        assert state["message"] in [f"saved at step {step} of 400" for step in range(10, 400)]
        step = int(state["message"].split()[3])
        assert (folder / "checkpoints" / f"step_{step:08d}" / "state.json").exists()
    assert call(*longer, cwd=tmp_path).returncode == 0
    (tmp_path / "straight").mkdir()
    assert call(*longer, cwd=tmp_path / "straight").returncode == 0
    (straight,) = (tmp_path / "straight").glob("runs/quickstart/*")
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/step_00000400/{name}.safetensors"
        ours, theirs = load_file(folder / file), load_file(straight / file)
        assert all((ours[key] == theirs[key]).all() for key in theirs) and len(ours) == len(theirs)


@pytest.mark.slow
def test_a_sweep_ends_with_one_table(tmp_path: Path) -> None:
    done = call("-m", "experiments=digits_kickoff", *TINY, "cascade.kickoff=8,16", "seed=0,1", "tracking=none",
                cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "runs" / "digits_kickoff" / "table.md").read_text()
    assert "| kickoff | seeds |" in table
    assert table.count("±") >= 8 and "arXiv 2504.07963, Table 1" in table
    assert "±" in done.stdout


@pytest.mark.slow
def test_a_failing_run_of_a_sweep_does_not_affect_the_others(tmp_path: Path) -> None:
    done = call("-m", *TINY, "backbone.patch_size=3,4", "tracking=none", cwd=tmp_path)
    assert done.returncode != 0
    assert "backbone.patch_size=3 does not divide" in done.stderr
    states = [json.loads(p.read_text())["state"] for p in tmp_path.glob("runs/quickstart/*/status.json")]
    assert states == ["finished"]
