"""The sender against a real MLflow with a SQLite file. `history` of metrics.jsonl is what has to be there."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from pixelflow.tracking.jsonl import MetricsLog, history, read_records
from pixelflow.tracking.mlflow import sender as mlflow_sender
from pixelflow.tracking.mlflow.position import MirrorState, count_unsent
from pixelflow.tracking.mlflow.sender import MLflowSender, first_line

History = dict[str, list[tuple[int, float]]]
MakeFolder = Callable[..., Path]
Stored = Callable[[Path], History]


def client_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(MirrorState.load(folder).uri)


def run_of(folder: Path) -> Any:
    return client_of(folder).get_run(MirrorState.load(folder).run_id)


def send(folder: Path, session_start: int | None = None) -> MLflowSender:
    sender = MLflowSender(folder=folder, session_start=session_start)
    try:
        sender.send()
    finally:
        sender.close()
    return sender


def log_steps(folder: Path, steps: range) -> None:
    with MetricsLog(folder) as log:
        for step in steps:
            log.metrics({"loss": 1 / (step + 1), "system/cpu_utilization_percentage": 50.0}, step=step)


class Crash(BaseException):
    """Ends a test's sender as kill -9 would: nothing of the package may catch it."""


def test_everything_arrives_with_the_times_of_the_lines(
    uri: str, run_folder: MakeFolder, stored_metrics: Stored
) -> None:
    folder = run_folder(uri, run_name="small", experiment="shapes")
    (folder / "figures").mkdir()
    (folder / "figures" / "grid.png").write_bytes(b"png")
    (folder / "config.yaml").write_text("seed: 1\n")
    with MetricsLog(folder) as log:
        log.params({"depth": 2, "compile": True, "path": None, "shift": [1, 2], "lr": 1e-4, "name": "a b"})
        log.tags({"machine": "laptop"})
        for step in range(3):
            log.metrics({"loss": 1 / 3 + step, "images per second": 8.0}, step=step)
        log.artifact(folder / "figures" / "grid.png")
        log.artifact(folder / "config.yaml")
        log.artifact(folder / "figures")
        log.status("FINISHED")
    sender = send(folder)
    run, lines = run_of(folder), [record for record, _ in read_records(log.path)]
    assert stored_metrics(folder) == history(log.path)
    assert run.data.params == {
        "depth": "2",
        "compile": "true",
        "path": "null",
        "shift": "[1, 2]",
        "lr": "0.0001",
        "name": "a b",
    }
    assert run.data.tags["machine"] == "laptop"
    assert run.info.run_name == "small"
    assert client_of(folder).get_experiment(run.info.experiment_id).name == "shapes"
    stored = [point.timestamp for point in client_of(folder).get_metric_history(run.info.run_id, "loss")]
    assert stored == [round(line["time"] * 1000) for line in lines if "metrics" in line]
    assert (run.info.start_time, run.info.end_time) == tuple(round(lines[i]["time"] * 1000) for i in (0, -1))
    assert run.info.status == "FINISHED"
    artifacts = folder.parent.parent / "mlartifacts" / run.info.run_id / "artifacts"
    names = sorted(str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file())
    assert names == ["config.yaml", "figures/grid.png"]
    assert (sender.sent, count_unsent(folder)) == (len(lines), 0)


def test_batches_of_a_long_run(uri: str, run_folder: MakeFolder, stored_metrics: Stored) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(1300))
    sender = MLflowSender(folder=folder)
    sizes = []
    sender._connect()
    log_batch = sender._client.log_batch
    sender._client.log_batch = lambda run_id, metrics: (sizes.append(len(metrics)), log_batch(run_id, metrics))
    sender.send()
    assert sizes == [1000, 1000, 600]
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")
    log_steps(folder, range(1300, 1302))
    sender.send()
    sender.close()
    assert sizes[3:] == [4]


def test_non_finite_values_arrive_as_mlflow_has_them(uri: str, run_folder: MakeFolder, stored_metrics: Stored) -> None:
    folder = run_folder(uri)
    with MetricsLog(folder) as log:
        log.metrics({"nan": math.nan, "up": math.inf, "down": -math.inf, "loss": 1.0}, step=1)
    send(folder)
    stored = stored_metrics(folder)
    assert math.isnan(stored.pop("nan")[0][1])
    assert stored["up"][0][1] > 1e308 and stored["down"][0][1] < -1e308
    assert stored["loss"] == [(1, 1.0)]


def test_a_crash_at_any_store_doubles_nothing(
    uri: str, run_folder: MakeFolder, stored_metrics: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_sender, "BATCH", 10)
    folder = run_folder(uri)
    for part in range(3):
        log_steps(folder, range(20 * part, 20 * part + 20))
        with MetricsLog(folder) as log:
            log.params({"depth": 2})
    save, saves = MirrorState.save, []

    def crash_each_time_once(state: MirrorState, to: Path) -> None:
        # The first attempt at any state dies after sending and before storing; the second gets through.
        saves.append(state)
        if saves.count(state) == 1:
            raise Crash
        save(state, to)

    monkeypatch.setattr(MirrorState, "save", crash_each_time_once)
    crashes = 0
    while count_unsent(folder) and crashes < 50:
        try:
            send(folder)
        except Crash:
            crashes += 1
    assert 10 < crashes < 50
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")
    assert len(client_of(folder).search_runs([MirrorState.load(folder).experiment_id])) == 1


def send_in_small_batches(folder: Path, started: Event, connected: Event) -> None:
    mlflow_sender.BATCH = 20
    sender = MLflowSender(folder=folder)
    started.set()
    sender._connect()
    connected.set()
    sender.send()


@pytest.mark.slow
def test_kill_9_at_any_moment_doubles_and_loses_nothing(
    uri: str, run_folder: MakeFolder, stored_metrics: Stored, processes: BaseContext
) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(400))
    moments, kills, unsent = random.Random(0), 0, []
    for moment in ("started", "started", "sending", "sending", "some are sent", "some are sent"):
        events = processes.Event(), processes.Event()
        process = processes.Process(target=send_in_small_batches, args=(folder, *events))  # type: ignore[attr-defined]
        process.start()
        assert events[moment != "started"].wait(60)
        while moment == "some are sent" and count_unsent(folder) == 400 and process.is_alive():
            process.join(0.01)  # on a busy machine the first batch takes its time
        process.join(moments.uniform(0.0, 0.15))
        process.kill()
        process.join()
        kills += process.exitcode == -9
        unsent.append(count_unsent(folder))
    assert kills >= 3 and any(0 < left < 400 for left in unsent), unsent  # at least one in the middle of it
    send(folder)
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")
    assert len(client_of(folder).search_runs([MirrorState.load(folder).experiment_id])) == 1


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_request_without_an_answer_doubles_and_loses_nothing(
    carried_out: bool, uri: str, run_folder: MakeFolder, stored_metrics: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    folder = run_folder(uri)
    log_steps(folder, range(50))
    lost: set[str] = set()

    def lose_first_answer(name: str) -> Callable[..., Any]:
        call = getattr(MlflowClient, name)

        def unanswered_once(*args: Any, **options: Any) -> Any:
            first = name not in lost
            lost.add(name)
            result = call(*args, **options) if carried_out or not first else None
            if first:
                raise MlflowException("timed out")
            return result

        return unanswered_once

    for name in ("create_experiment", "create_run", "log_batch"):
        monkeypatch.setattr(MlflowClient, name, lose_first_answer(name))
    failures = 0
    while count_unsent(folder) and failures < 9:
        try:
            send(folder)
        except MlflowException:
            failures += 1
    # An experiment that is there after all is found at once; the others need the next attempt.
    assert (lost, failures) == ({"create_experiment", "create_run", "log_batch"}, 2 if carried_out else 3)
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")
    assert len(client_of(folder).search_runs([MirrorState.load(folder).experiment_id])) == 1


def test_what_mlflow_refuses_does_not_block_the_rest(
    uri: str, run_folder: MakeFolder, stored_metrics: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_folder(uri)
    with MetricsLog(folder) as log:
        log.params({"depth": 2, "width": 8})
        log.params({"depth": 3, "heads": 4, "long": "x" * 7000})
        log.metrics({"loss": 1.0, "bad[name]": 2.0}, step=1)
        log.metrics({"loss": 2.0}, step=2)
        log.tags({"good": "tag", "bad[tag]": "x"})
        log.status("FINISHED")
    send(folder)
    run = run_of(folder)
    assert stored_metrics(folder) == {"loss": [(1, 1.0), (2, 2.0)]}
    assert {name: value[:9] for name, value in run.data.params.items()} == {
        "depth": "2",
        "width": "8",
        "heads": "4",
        "long": "x" * 9,
    }
    assert run.data.tags["good"] == "tag" and run.info.status == "FINISHED"
    refused = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert [line.split(":")[0] for line in refused] == [
        "MLflow refuses param 'depth'",
        "MLflow refuses metric 'bad[name]'",
        "MLflow refuses tag 'bad[tag]'",
    ]
    assert all("\n" not in line for line in refused)


def test_artifacts_that_cannot_be_stored_do_not_block_the_rest(
    uri: str, run_folder: MakeFolder, stored_metrics: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "no_directory").write_text("")
    folder = run_folder(uri, artifact_root=(tmp_path / "no_directory" / "artifacts").as_uri())
    (folder / "config.yaml").write_text("seed: 1\n")
    with MetricsLog(folder) as log:
        log.artifact(folder / "gone.png")
        log.artifact(folder / "config.yaml")
        log.metrics({"loss": 1.0}, step=1)
    send(folder)
    assert stored_metrics(folder) == {"loss": [(1, 1.0)]}
    warnings = [record.getMessage() for record in caplog.records if "has not received artifact" in record.getMessage()]
    assert [Path(line.split(":")[0]).name for line in warnings] == ["gone.png", "config.yaml"]


def test_a_record_that_names_a_file_elsewhere_sends_nothing(
    uri: str, run_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_folder(uri)
    private = folder.parent / "private.txt"
    private.write_text("private")
    lines = [{"time": 1.0, "artifact": name} for name in ("../private.txt", str(private), "a/../../private.txt")]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    send(folder)
    assert client_of(folder).list_artifacts(MirrorState.load(folder).run_id) == []
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["it is not in the run folder"] * 3


def test_a_broken_line_is_passed_over(uri: str, run_folder: MakeFolder, stored_metrics: Stored) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(3))
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"time": 1.0, "step": 3, "met')
    send(folder)
    log_steps(folder, range(4, 6))
    send(folder)
    assert [step for step, _ in stored_metrics(folder)["loss"]] == [0, 1, 2, 4, 5]


def test_a_later_session_goes_on_with_the_same_run(uri: str, run_folder: MakeFolder, stored_metrics: Stored) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(5))
    with MetricsLog(folder) as log:
        log.status("KILLED")
    size = log.path.stat().st_size
    send(folder)
    first = run_of(folder)
    assert first.info.status == "KILLED"
    sender = MLflowSender(folder=folder, session_start=size)
    sender.send()
    assert run_of(folder).info.status == "RUNNING"
    log_steps(folder, range(5, 9))
    with MetricsLog(folder) as log:
        log.status("FINISHED")
    sender.send()
    sender.close()
    assert (run_of(folder).info.run_id, run_of(folder).info.status) == (first.info.run_id, "FINISHED")
    assert stored_metrics(folder) == history(log.path)


def test_an_end_that_an_earlier_session_could_not_send_does_not_end_this_one(uri: str, run_folder: MakeFolder) -> None:
    folder = run_folder(uri)
    with MetricsLog(folder) as log:
        log.status("FAILED")
    send(folder, session_start=log.path.stat().st_size)
    assert run_of(folder).info.status == "RUNNING"


def test_the_run_is_found_by_its_tag_and_doubles_of_it_go(uri: str, run_folder: MakeFolder) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(3))
    state = MirrorState.load(folder)
    client = client_of(folder)
    experiment_id = client.create_experiment("test")
    tags = {"pixelflow.run_folder_id": state.folder_id}
    runs = [client.create_run(experiment_id, start_time=at, tags=tags).info.run_id for at in (2, 1, 3)]
    other = client.create_run(experiment_id, tags={"pixelflow.run_folder_id": "another"}).info.run_id
    send(folder)
    assert MirrorState.load(folder).run_id == runs[1]
    assert {run.info.run_id for run in client.search_runs([experiment_id])} == {runs[1], other}


def test_the_parent_is_named(uri: str, run_folder: MakeFolder) -> None:
    folder = run_folder(uri, parent_run_id="0123456789abcdef")
    send(folder)
    assert run_of(folder).data.tags["mlflow.parentRunId"] == "0123456789abcdef"


def test_a_run_deleted_in_mlflow_stays_deleted_and_nothing_is_lost(uri: str, run_folder: MakeFolder) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(3))
    sender = send(folder)
    client_of(folder).delete_run(sender.state.run_id)
    log_steps(folder, range(3, 6))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="deleted in MLflow: restore it, or delete"):
            sender.send()
    sender.close()
    assert count_unsent(folder) == 3


def test_a_database_made_anew_gets_everything_again(
    uri: str, run_folder: MakeFolder, stored_metrics: Stored, tmp_path: Path, database_template: Path
) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(3))
    first = send(folder).state.run_id
    # The same server with an empty database; another file stands for it, since a process keeps a SQLite file open.
    shutil.copy(database_template, tmp_path / "anew.db")
    text = (folder / "mlflow.json").read_text()
    (folder / "mlflow.json").write_text(text.replace("/mlflow.db", "/anew.db"))
    assert send(folder).state.run_id != first
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")


def test_one_process_at_a_time_mirrors_a_folder(uri: str, run_folder: MakeFolder) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(3))
    first, second = MLflowSender(folder=folder), MLflowSender(folder=folder)
    first.send()
    with pytest.raises(RuntimeError, match="another process mirrors"):
        second.send()
    first.close()
    second.send()
    second.close()


def test_an_error_is_told_by_its_first_cause_in_one_line() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused\nby 127.0.0.1")
        except OSError as error:
            raise RuntimeError("Max retries exceeded") from error
    except RuntimeError as error:
        assert first_line(error) == "[Errno 111] Connection refused"
    assert first_line(TimeoutError()) == "TimeoutError"
