"""Runs read from a local MLflow database, against the same runs in their folders."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pixelflow.errors import UserError
from pixelflow.reporting.folder_reader import read_run_folders
from pixelflow.reporting.formats import csv_text, markdown
from pixelflow.reporting.mlflow_reader import read_mlflow
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import build_table
from pixelflow.runs.flat import flatten
from tests.unit.reporting.conftest import config


def log_run(client: Any, experiment_id: str, run: Run, status: str, **tags: str) -> str:
    """Logs a run as training does: params as text, an earlier evaluation's metrics and the newest one's, its file."""
    from mlflow.entities import Param

    run_id = client.create_run(experiment_id, run_name=run.name, tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in run.config.items()])
    client.log_metric(run_id, "loss", 0.5, step=1)
    for key, value in run.metrics.items():
        client.log_metric(run_id, f"eval/{key}", value + 1, step=1)
        client.log_metric(run_id, f"eval/{key}", value, step=2)
    if run.folder and run.metrics:
        client.log_metric(run_id, "eval/sfid", 99.0, step=1)  # the newest evaluation has none
        for file in sorted((run.folder / "evaluation").iterdir()):
            client.log_artifact(run_id, str(file), "evaluation")
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty MLflow database; making one takes seconds."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    MlflowClient(tracking_uri=uri).create_experiment("empty", artifact_location="unused")
    return uri


def test_mlflow_gives_the_table_of_the_folders(write_run: Callable[..., Path], tmp_path: Path, database: str) -> None:
    from mlflow.tracking import MlflowClient

    for kickoff in (16, 8):
        for seed in (0, 1, 2):
            metrics = {"fid": kickoff / 3 + seed / 7, "accuracy": 0.9 + seed / 100}
            write_run(f"kick-{kickoff}-{seed}", config(kickoff, seed), metrics)
    write_run("stopped", config(8, 3), state="failed", message="")
    write_run("halted", config(8, 4), {"fid": 1.0}, state="interrupted")
    folders = read_run_folders(tmp_path / "runs")

    client = MlflowClient(tracking_uri=database)
    experiment_id = client.create_experiment("whole", artifact_location=(tmp_path / "artifacts").as_uri())
    parent = client.create_run(experiment_id, run_name="the sweep").info.run_id
    statuses = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
    for run in folders:
        log_run(client, experiment_id, run, statuses[run.state], **{"mlflow.parentRunId": parent})

    runs = read_mlflow(database, "whole")
    assert [run.name for run in runs] == sorted(run.name for run in folders)
    assert [run.config for run in runs] == [run.config for run in folders]
    expected = build_table(folders, date="2026-01-02")
    table = build_table(runs, date="2026-01-02")
    assert csv_text(table) == csv_text(expected)
    # Why a run failed is known to its folder only.
    assert markdown(table) == markdown(expected).replace(", step 7 of 10", "")
    assert table.notes[-2:] == ("Left out: halted: interrupted.", "Left out: stopped: failed.")


def test_mlflow_gives_each_evaluation_of_a_run_with_its_own_settings(
    write_evaluated_run: Callable[..., Path], tmp_path: Path, database: str
) -> None:
    """MLflow's params are those of the first evaluation, and its state that of the last one."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=database)
    experiment_id = client.create_experiment("evaluations", artifact_location=(tmp_path / "artifacts").as_uri())
    write_evaluated_run(0, (1.0, 2.0, 3.0))
    write_evaluated_run(1, (1.0, 2.0), state="failed")
    for seed, status in ((0, "FINISHED"), (1, "FAILED")):
        folder = tmp_path / "runs" / "sweep" / f"run-{seed}"
        config = flatten(yaml.safe_load((folder / "config.yaml").read_text()))
        log_run(client, experiment_id, Run(folder.name, config, seed, {"fid": 30.0}, {}, "", folder), status)
    runs = read_mlflow(database, "evaluations")
    assert [(run.name, run.config["guidance.scale"], run.metrics.get("fid"), run.state) for run in runs] == [
        ("run-0", 1, 10.0, "finished"), ("run-0", 2, 20.0, "finished"), ("run-0", 3, 30.0, "finished"),
        ("run-1", 1, 11.0, "finished"), ("run-1", 2, 21.0, "finished"), ("run-1", 1, None, "failed"),
    ]  # fmt: skip
    expected = build_table(read_run_folders(tmp_path / "runs"), date="2026-01-02")
    assert csv_text(build_table(runs, date="2026-01-02")) == csv_text(expected)
    assert [row.cells["fid"].mean for row in expected.rows] == [10.5, 20.5, 30.0]


def test_mlflow_does_not_guess_the_settings_of_several_evaluations(
    make_run: Callable[..., Run], database: str, tmp_path: Path
) -> None:
    """Without the files, the last values would appear under the settings of the first evaluation."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=database)
    experiment_id = client.create_experiment("lost", artifact_location=(tmp_path / "artifacts").as_uri())
    run_id = log_run(client, experiment_id, make_run({}, 0, {"fid": 1.0}, name="a"), "FINISHED")
    assert [run.complete for run in read_mlflow(database, "lost")] == [True]
    client.log_metric(run_id, "eval/fid", 2.0, step=2)
    (run,) = read_mlflow(database, "lost")
    assert run.state == "broken"
    assert run.reason == "it has several evaluations, and the files that hold their settings are not in MLflow"


def test_mlflow_without_artifacts_has_the_latest_metrics(make_run: Callable[..., Run], database: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=database)
    experiment_id = client.create_experiment("bare", artifact_location="unused")
    log_run(client, experiment_id, make_run({}, 0, {"fid": 1.0}, name="a"), "FINISHED")
    log_run(client, experiment_id, make_run({}, 1, {"fid": 2.0, "num_samples": 1000.0}, name="b"), "FINISHED")
    first, second = read_mlflow(database, "bare")
    assert (first.metrics, first.record, first.complete) == ({"fid": 1.0}, {}, True)
    assert (second.metrics["fid"], second.record) == (2.0, {"num_samples": 1000})
    assert "The sample count is not recorded for a." in build_table([first, second]).notes


def test_mlflow_states_and_broken_runs(
    make_run: Callable[..., Run], write_run: Callable[..., Path], database: str, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=database)
    experiment_id = client.create_experiment("states", artifact_location=(tmp_path / "artifacts").as_uri())
    log_run(client, experiment_id, make_run({}, 0, {"fid": 1.0}, name="a"), "RUNNING")
    folder = write_run("b", {"seed": 1}, {"fid": 1.0})
    (whole,) = read_run_folders(folder)
    (folder / "evaluation" / "held-out.json").write_text('{"metrics": {')
    log_run(client, experiment_id, whole, "FINISHED")
    client.create_run(experiment_id, run_name="c")
    runs = read_mlflow(database, "states")
    assert [(run.name, run.state) for run in runs] == [("a", "running"), ("b", "broken"), ("c", "broken")]
    assert runs[1].reason.startswith("evaluation/held-out.json is not JSON: ")
    assert runs[2].reason == "the config has no integer `seed`"


def test_mlflow_faults_are_short_messages(database: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment 'typo'; it has .*empty"):
        read_mlflow(database, "typo")
    with pytest.raises(UserError, match=r"MLflow at sqlite:.* holds no runs of experiment 'empty'; train first"):
        read_mlflow(database, "empty")
    with pytest.raises(UserError, match="there is no MLflow database at"):
        read_mlflow(f"sqlite:///{tmp_path}/none.db", "sweep")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as if it were one" * 20)
    with pytest.raises(UserError, match="cannot read MLflow at"):
        read_mlflow(f"sqlite:///{tmp_path}/text.db", "sweep")


def test_a_dead_server_is_given_up_soon() -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot read MLflow at http://\*\*\*@127.0.0.1:9; start the server") as error:
        read_mlflow("http://me:secret@127.0.0.1:9", "sweep")
    assert time.monotonic() - start < 30
    assert len(str(error.value)) < 400
    assert "secret" not in str(error.value)


def test_what_a_server_answers_is_text(database: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=database)
    hostile = "=1+1\x1b[2J|<b>\n# x"
    experiment = client.create_experiment("a\x1b[2J\nerror: fake", artifact_location=tmp_path.as_uri())
    run = Run(hostile, {"seed": 0, "k": hostile, "deep": "[" * 5000}, 0, {"fid": 1.0}, {}, "finished", None)
    log_run(client, experiment, run, "FINISHED")
    table = build_table(read_mlflow(database, "a\x1b[2J\nerror: fake"), Presentation(axes=("k",)))
    for text in (markdown(table), csv_text(table)):
        assert "\x1b" not in text and "\n# x" not in text and "\n=" not in text
    with pytest.raises(UserError) as caught:
        read_mlflow(database, "nothing")
    assert "a\\x1b[2J error: fake" in str(caught.value) and "\n" not in str(caught.value)
