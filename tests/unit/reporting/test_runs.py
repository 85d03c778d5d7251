import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pixelflow.reporting.formats import csv_text, markdown
from pixelflow.reporting.runs import Run, read_mlflow, read_run_folders
from pixelflow.reporting.table import build_table
from pixelflow.runs.flat import flatten

CONFIG = {
    "experiment": "sweep",
    "cascade": {"_target_": "pixelflow.flow.Cascade", "kickoff": 8, "gamma": -0.25},
    "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]},
    "guidance": {"weights": None, "scale": 2.0},
    "ema": {},
}


def config(kickoff: int, seed: int) -> dict[str, Any]:
    return {**CONFIG, "seed": seed, "cascade": {**CONFIG["cascade"], "kickoff": kickoff}}


def test_flatten_brings_text_and_values_to_one_form() -> None:
    nested = {"a": {"b": 2.0, "c": None, "empty": {}}, "flag": True, "betas": [0.9, 1.0], "lr": 1e-5, "name": "x-1"}
    as_text = {"a.b": "2.0", "a.c": "None", "flag": "True", "betas": "[0.9, 1.0]", "lr": "1e-05", "name": "x-1"}
    expected = {"a.b": 2, "a.c": None, "flag": True, "betas": [0.9, 1], "lr": 1e-5, "name": "x-1"}
    assert flatten(nested) == expected
    assert flatten(as_text) == expected
    assert flatten({"a": "[null, 0.5]", "b": "true", "c": "['x', None]"}) == {
        "a": [None, 0.5],
        "b": True,
        "c": ["x", None],
    }
    assert flatten({"odd": "{1, 2}", "bytes": "b'x'"}) == {"odd": "{1, 2}", "bytes": "b'x'"}


def test_run_folder(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run("kick-8", config(8, 3), {"fid": 3, "precision": 0.5})
    (run,) = read_run_folders(tmp_path / "runs")
    assert (run.name, run.seed, run.state, run.folder, run.reason) == ("kick-8", 3, "finished", folder, "")
    assert run.metrics == {"fid": 3.0, "precision": 0.5}
    assert run.record["num_samples"] == 50000
    assert run.config["cascade.kickoff"] == 8
    assert run.config["guidance.scale"] == 2
    assert run.complete
    assert read_run_folders(folder) == [run]


def test_folders_inside_a_run_and_hidden_ones_are_no_runs(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run("a", config(8, 0), {"fid": 3.0})
    for other in (folder / "checkpoints" / "step_00000001", tmp_path / "runs" / ".hydra"):
        other.mkdir(parents=True)
        (other / "config.yaml").write_text("seed: 0")
    assert [run.name for run in read_run_folders(tmp_path / "runs")] == ["a"]


def test_newest_evaluation_by_its_record_and_not_by_the_file(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run("a", config(8, 0)) / "evaluation"
    times = {"b": "2026-01-02T10:00:00+0000", "a": "2026-01-02T12:00:01+0200", "c": "2026-01-01T23:00:00+0000"}
    for fid, (name, written) in enumerate(times.items()):
        metrics = {"fid": fid} | ({"sfid": 9.0} if name == "b" else {})
        (folder / f"{name}.json").write_text(json.dumps({"metrics": metrics, "record": {"time": written}}))
    (folder / ".d.json").write_text("half a fi")
    (run,) = read_run_folders(tmp_path)
    assert run.metrics == {"fid": 1.0}  # and no sfid of an older one
    (folder / "unix.json").write_text(json.dumps({"metrics": {"fid": 5}, "record": {"time": time.time() + 1e9}}))
    (folder / "file.json").write_text(json.dumps({"metrics": {"fid": 6}}))  # known by the file's own time
    (run,) = read_run_folders(tmp_path)
    assert run.metrics == {"fid": 5.0}
    (folder / "unix.json").unlink()
    (run,) = read_run_folders(tmp_path)
    assert run.metrics == {"fid": 6.0}


def test_evaluations_of_one_run_with_other_settings_are_rows_of_one_table(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    """Runs that differ only in their guidance share a folder, whose config.yaml has the first one's."""
    names = {}
    for seed in (0, 1):
        folder = write_run(f"run-{seed}", {"seed": seed, "guidance": {"scale": 1.0, "low": 0.1}, "depth": 2})
        for scale in (1.0, 2.0, 3.0):
            settings = {"guidance": {"scale": scale}}
            content = {"metrics": {"fid": 10 * scale + seed}, "record": {"num_samples": 50, "settings": settings}}
            names[scale] = f"evaluation/{scale}.json"
            (folder / names[scale]).write_text(json.dumps(content))
        status = json.loads((folder / "status.json").read_text())
        # The third was made by hand: it is no row.
        (folder / "status.json").write_text(json.dumps(status | {"evaluations": [names[1.0], names[2.0]]}))
    runs = read_run_folders(tmp_path)
    assert [(run.seed, run.config["guidance.scale"], run.metrics["fid"]) for run in runs] == [
        (0, 1, 10.0), (0, 2, 20.0), (1, 1, 11.0), (1, 2, 21.0),
    ]  # fmt: skip
    assert all("guidance.low" not in run.config and run.config["depth"] == 2 for run in runs)
    table = build_table(runs)
    assert table.axes == ("guidance.scale",)
    assert [row.cells["fid"].mean for row in table.rows] == [10.5, 20.5]


def test_a_later_evaluation_that_fails_leaves_the_earlier_ones_in_the_table(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_run("a", config(8, 0), {"fid": 3.0})
    status = {"state": "failed", "message": "the disk is full", "evaluations": ["evaluation/held-out.json"]}
    (folder / "status.json").write_text(json.dumps(status))
    first, second = read_run_folders(tmp_path)
    assert (first.complete, first.metrics) == (True, {"fid": 3.0})
    assert (second.complete, second.state, second.reason) == (False, "failed", "the disk is full")


def test_unfinished_failed_and_unevaluated_runs_are_kept(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("failed", config(8, 0), state="failed", message="the loss is nan at step 7")
    write_run("running", config(8, 1), {"fid": 1.0}, state="running")
    write_run("unevaluated", config(8, 2))
    (write_run("without", config(8, 4), {"fid": 1.0}) / "status.json").unlink()
    runs = {run.name: run for run in read_run_folders(tmp_path)}
    assert not any(run.complete for run in runs.values())
    assert {name: (run.state, run.reason) for name, run in runs.items()} == {
        "failed": ("failed", "the loss is nan at step 7"),
        "running": ("running", "step 7 of 10"),
        "unevaluated": ("finished", ""),
        "without": ("unknown", "no status.json"),
    }


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("evaluation/held-out.json", '{"metrics": {"fid": 3.', "evaluation/held-out.json is not JSON: "),
        ("evaluation/held-out.json", "[]", "evaluation/held-out.json is not a mapping"),
        ("evaluation/held-out.json", '{"record": {}}', "evaluation/held-out.json has no `metrics`"),
        ("evaluation/held-out.json", '{"metrics": {"fid": "3"}}', "metrics.fid='3' is not a number"),
        ("evaluation/held-out.json", '{"metrics": {"fid": true}}', "metrics.fid=True is not a number"),
        ("evaluation/held-out.json", '{"metrics": {"fid": 3}, "record": 1}', "`record` is not a mapping"),
        ("status.json", "", "status.json is not JSON: "),
        ("config.yaml", "a: [1", "config.yaml is not YAML: "),
        ("config.yaml", "a: 1", "the config has no integer `seed`"),
        ("config.yaml", "\xff", "config.yaml is not"),
    ],
)
def test_broken_files_are_reported_with_their_run(
    write_run: Callable[..., Path], tmp_path: Path, file: str, text: str, reason: str
) -> None:
    write_run("whole", config(8, 0), {"fid": 3.0})
    (write_run("broken", config(8, 1), {"fid": 3.0}) / file).write_bytes(text.encode("latin-1"))
    broken, whole = read_run_folders(tmp_path)
    assert broken.state == "broken"
    assert reason in broken.reason
    assert "\n" not in broken.reason
    assert whole.complete
    table = build_table([broken, whole])
    assert [len(row.runs) for row in table.rows] == [1]
    assert any(note.startswith("Left out: broken: broken, ") and reason in note for note in table.notes)


def test_no_runs_names_the_folder_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path} holds no runs .*; train first"):
        read_run_folders(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere is not a folder; train first"):
        read_run_folders(tmp_path / "nowhere")


# MLflow ------------------------------------------------------------------------------------------------------------


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
        client.log_artifact(run_id, str(run.folder / "evaluation" / "held-out.json"), "evaluation")
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
    with pytest.raises(ValueError, match=r"no experiment 'typo'; it has .*empty"):
        read_mlflow(database, "typo")
    with pytest.raises(ValueError, match=r"MLflow at sqlite:.* holds no runs of experiment 'empty'; train first"):
        read_mlflow(database, "empty")
    with pytest.raises(ValueError, match="there is no MLflow database at"):
        read_mlflow(f"sqlite:///{tmp_path}/none.db", "sweep")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as if it were one" * 20)
    with pytest.raises(ValueError, match="cannot read MLflow at"):
        read_mlflow(f"sqlite:///{tmp_path}/text.db", "sweep")


def test_a_dead_server_is_given_up_soon() -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot read MLflow at http://\*\*\*@127.0.0.1:9; start the server") as error:
        read_mlflow("http://me:secret@127.0.0.1:9", "sweep")
    assert time.monotonic() - start < 30
    assert len(str(error.value)) < 400
    assert "secret" not in str(error.value)
