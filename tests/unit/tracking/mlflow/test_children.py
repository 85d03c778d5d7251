from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from pixelflow.sweeps.registry import best_run, register_best
from pixelflow.tracking.jsonl import MetricsLog
from pixelflow.tracking.mlflow.children import end_parent, schedule
from pixelflow.tracking.mlflow.mirror import sync
from pixelflow.tracking.mlflow.position import MirrorState, lock_file
from pixelflow.tracking.mlflow.sender import MLflowSender


def announce(uri: str, tmp_path: Path, *, names: str = "ab", **settings: Any) -> tuple[dict[str, str], list[Path]]:
    folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    tags = {folder: {"axis": folder.name} for folder in folders}
    return schedule(tags, uri=uri, experiment="test", name="sweep-1", **settings), folders


def runs_of(uri: str, parent: str) -> dict[str, Any]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    return {run.data.tags["axis"]: run for run in found}


def test_children_wait_under_their_parent_and_their_jobs_go_on_with_them(uri: str, tmp_path: Path) -> None:
    known, folders = announce(uri, tmp_path)
    parent = known["parent_run_id"]
    assert {name: run.info.status for name, run in runs_of(uri, parent).items()} == dict.fromkeys("ab", "SCHEDULED")
    assert MlflowClient(uri).get_run(parent).info.status == "RUNNING"
    sender = MLflowSender(folder=folders[0], session_start=0)
    sender.send()
    assert runs_of(uri, parent)["a"].info.status == "RUNNING"
    with MetricsLog(folders[0]) as log:
        log.status("FINISHED")
    sender.send()
    sender.close()
    runs = runs_of(uri, parent)
    assert (len(runs), runs["a"].info.status, runs["b"].info.status) == (2, "FINISHED", "SCHEDULED")
    end_parent(known, failed=True)
    assert MlflowClient(uri).get_run(parent).info.status == "FAILED"


def test_announced_again_the_runs_are_the_same(uri: str, tmp_path: Path) -> None:
    first, folders = announce(uri, tmp_path)
    second, _ = announce(uri, tmp_path, parent_run_id=first["parent_run_id"])
    third, _ = announce(uri, tmp_path)  # by a submitter who does not know the parent
    assert first == second == third and len(runs_of(uri, first["parent_run_id"])) == len(folders)


def test_a_run_that_is_at_work_is_left_alone(uri: str, tmp_path: Path) -> None:
    known, folders = announce(uri, tmp_path)
    MlflowClient(uri).update_run(str(MirrorState.load(folders[0]).run_id), status="RUNNING")
    lock = lock_file(folders[0] / "mlflow.lock", wait=False)
    announce(uri, tmp_path, **{"parent_run_id": known["parent_run_id"]})
    assert lock is not None and runs_of(uri, known["parent_run_id"])["a"].info.status == "RUNNING"


def test_a_server_that_is_away_holds_nothing_up(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The parent and the tags follow with a later sync, once the server is there; a file stands for it."""
    monkeypatch.setattr("pixelflow.tracking.mlflow.children.PATIENCE", 3.0)
    known, folders = announce("http://127.0.0.1:9", tmp_path)
    assert "parent_run_id" not in known and "does not work" in caplog.text
    for folder in folders:
        replace(MirrorState.load(folder), uri=uri).save(folder)
        with MetricsLog(folder) as log:
            log.metrics({"loss": 1.0}, step=1)
        assert sync(folder).error is None
    later, _ = announce(uri, tmp_path, announce=False)
    runs = runs_of(uri, later["parent_run_id"])
    assert sorted(runs) == ["a", "b"] and all(run.data.metrics == {"loss": 1.0} for run in runs.values())


def finished_run(folder: Path, distance: float) -> None:
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "step_1.json").write_text(json.dumps({"metrics": {"fd_digits": distance, "recall": 0.1}}))
    for step in (1, 2):
        checkpoint = folder / "checkpoints" / f"step_0000000{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text("{}")


def test_the_best_checkpoint_becomes_a_version_once(uri: str, tmp_path: Path) -> None:
    _, folders = announce(uri, tmp_path)
    for folder, distance in zip(folders, (3.0, 2.0), strict=True):
        finished_run(folder, distance)
    assert register_best(folders, model="digits", metric=None).startswith("digits version 1: ")
    assert "already" in register_best(folders, model="digits", metric=None)
    (version,) = MlflowClient(uri).search_model_versions("name='digits'")
    assert version.run_id == MirrorState.load(folders[1]).run_id and version.tags["checkpoint"] == "step_00000002"


def test_the_best_run_by_a_metric_that_grows(tmp_path: Path) -> None:
    finished_run(tmp_path / "x", 1.0)
    assert best_run([tmp_path / "x"], "recall") == (0.1, tmp_path / "x", "recall")
    with pytest.raises(ValueError, match="none of 1 finished runs has accuracy"):
        best_run([tmp_path / "x"], "accuracy")
