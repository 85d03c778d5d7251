"""The mirror's process and `sync`, with an MLflow that works, refuses, hangs or dies."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pixelflow.tracking.jsonl import MetricsLog, history
from pixelflow.tracking.mlflow.mirror import MLflowMirror, sync
from pixelflow.tracking.mlflow.position import MirrorState, count_unsent
from pixelflow.tracking.tracker import Tracker

MakeFolder = Callable[..., Path]
Stored = Callable[[Path], dict[str, list[tuple[int, float]]]]
PATIENCE = 240.0  # seconds; a busy machine starts a server in more than a minute
"""Seconds that a busy machine may take to start a process with MLflow."""


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def log_steps(folder: Path, steps: range) -> None:
    with MetricsLog(folder) as log:
        for step in steps:
            log.metrics({"loss": 1 / (step + 1)}, step=step)


def test_a_run_is_mirrored_while_it_goes_on_and_ends_with_it_quietly(
    uri: str,
    tmp_path: Path,
    stored_metrics: Stored,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "runs" / "run"
    mirror = MLflowMirror(folder=folder, uri=uri, experiment="test", run_name="run")
    assert mirror._process is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        mirror._process.send_signal(number)  # what a job gets from Ctrl-C and SLURM is not for the mirror
    tracker = Tracker(folder=folder, mirror=mirror)
    for step in range(100):
        tracker.log({"loss": 1 / (step + 1)}, step)
    wait_for(lambda: count_unsent(folder) == 0)
    from mlflow import MlflowClient

    state = MirrorState.load(folder)
    assert MlflowClient(uri).get_run(state.run_id).info.status == "RUNNING"
    tracker.log({"loss": 0.0}, 100)
    assert mirror._process.stdin is not None
    inherited = os.dup(mirror._process.stdin.fileno())  # as a forked data worker does, which lives a little longer
    tracker.finish("FINISHED")
    os.close(inherited)
    assert mirror._process.returncode == 0
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")
    assert MlflowClient(uri).get_run(state.run_id).info.status == "FINISHED"
    assert (capfd.readouterr(), caplog.text) == (("", ""), "")
    assert mirror.close() == 0


def test_a_hung_server_delays_neither_start_nor_logging_nor_close(
    tmp_path: Path, hung_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    mirror = MLflowMirror(folder=tmp_path, uri=hung_server.uri, experiment="test", run_name="run")
    assert time.monotonic() - start < 1
    assert hung_server.contacted.wait(PATIENCE)
    log_steps(tmp_path, range(50))
    wait_for(lambda: "does not work" in caplog.text)
    start = time.monotonic()
    assert mirror.close(timeout=1.0) == 50
    assert time.monotonic() - start < 2
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and all(record.levelno == logging.WARNING for record in caplog.records)
    assert hung_server.uri in messages[0] and "what was missed is sent later" in messages[0]
    assert messages[1].startswith("50 records of ") and "a sync sends them" in messages[1]
    assert mirror._process is not None and mirror._process.poll() is not None


def test_a_mirror_that_is_killed_is_reported_and_training_goes_on(
    tmp_path: Path, refused_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = MLflowMirror(folder=tmp_path, uri=f"http://127.0.0.1:{refused_port}", experiment="test", run_name="run")
    assert mirror._process is not None
    mirror._process.kill()
    wait_for(lambda: "ended with status -9" in caplog.text)
    log_steps(tmp_path, range(3))
    assert mirror.close() == 3


def test_no_process_to_be_had_is_reported_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no_python"))
    mirror = MLflowMirror(folder=tmp_path, uri="http://host", experiment="test", run_name="run")
    assert "cannot start the MLflow mirror" in caplog.text
    log_steps(tmp_path, range(3))
    (tmp_path / "mlflow.json").unlink()  # whatever somebody does to the mirror's own files
    assert mirror.close() == 3


@pytest.mark.slow
def test_a_mirror_that_is_killed_at_random_moments_sends_every_metric_once(
    uri: str, tmp_path: Path, stored_metrics: Stored
) -> None:
    folder, moments, steps = tmp_path / "run", random.Random(0), itertools.count()

    def sent() -> int:
        return MirrorState.load(folder).offset

    def log_a_step(log: MetricsLog) -> None:
        step = next(steps)
        log.metrics({"loss": 1 / (step + 1)}, step=step)
        time.sleep(0.02)

    for _ in range(max(2, int(os.environ.get("PIXELFLOW_KILLS", "20")) // 5)):
        mirror = MLflowMirror(folder=folder, uri=uri, experiment="test", run_name="run")
        assert mirror._process is not None
        before, end = sent(), time.monotonic() + PATIENCE
        with MetricsLog(folder) as log:
            while sent() == before:
                assert time.monotonic() < end, "nothing is sent"
                log_a_step(log)
            for _ in range(moments.randrange(100)):  # the mirror sends once a second
                log_a_step(log)
        mirror._process.kill()
        mirror._process.wait()
        mirror.close()
    report = sync(folder)
    assert (report.unsent, report.error) == (0, None)
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")


SHORT_LIFE = """
import os, signal, sys
from pathlib import Path
from pixelflow.tracking import MLflowMirror, Tracker
folder = Path(sys.argv[1])
tracker = Tracker(folder=folder, mirror=MLflowMirror(folder=folder, uri=sys.argv[2], experiment="e", run_name="r"))
for step in range(20):
    tracker.log({"loss": 1.0}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_when_training_is_killed_the_mirror_sends_the_rest_and_leaves(
    uri: str, tmp_path: Path, stored_metrics: Stored
) -> None:
    folder = tmp_path / "run"
    training = subprocess.run([sys.executable, "-c", SHORT_LIFE, str(folder), uri], timeout=PATIENCE)
    assert training.returncode == -signal.SIGKILL
    wait_for(lambda: count_unsent(folder) == 0)
    wait_for(lambda: not mirrors_of(folder))
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")


def mirrors_of(folder: Path) -> list[int]:
    """The processes that have the folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_sync_sends_what_a_run_could_not(uri: str, run_folder: MakeFolder, stored_metrics: Stored) -> None:
    folder = run_folder(uri)
    log_steps(folder, range(7))
    report = sync(folder)
    assert (report.sent, report.unsent, report.error) == (7, 0, None)
    assert report.run_id == MirrorState.load(folder).run_id
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")
    assert sync(folder).sent == 0


def test_sync_reports_a_refused_port(refused_port: int, run_folder: MakeFolder) -> None:
    folder = run_folder(f"http://127.0.0.1:{refused_port}")
    log_steps(folder, range(7))
    report = sync(folder)
    assert (report.sent, report.unsent, report.run_id) == (0, 7, None)
    assert report.error == "[Errno 111] Connection refused"


def test_sync_returns_in_time_from_a_hung_server(hung_server: Any, run_folder: MakeFolder) -> None:
    folder = run_folder(hung_server.uri)
    log_steps(folder, range(7))
    start = time.monotonic()
    report = sync(folder, timeout=0.5)
    assert time.monotonic() - start < 1.5
    assert report.unsent == 7 and report.error == "not finished after 0.5 s"


def test_sync_of_a_folder_that_was_never_mirrored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never mirrored"):
        sync(tmp_path)


@contextmanager
def mlflow_server(port: int, database: str, artifacts: Path) -> Iterator[subprocess.Popen[bytes]]:
    import requests

    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(artifacts)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]

    def healthy() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok
        except requests.RequestException:
            return False

    try:
        wait_for(healthy)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_a_server_that_stops_hangs_and_comes_back_has_everything_once(
    uri: str,
    refused_port: int,
    tmp_path: Path,
    stored_metrics: Stored,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, server_uri = tmp_path / "run", f"http://127.0.0.1:{refused_port}"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "grid.png").write_bytes(b"png")
    worst = 0.0

    def log(tracker: Tracker, steps: range) -> None:
        nonlocal worst
        for step in steps:
            start = time.monotonic()
            tracker.log({"loss": 1 / (step + 1), "nan": float("nan")} if step == 7 else {"loss": 1 / (step + 1)}, step)
            worst = max(worst, time.monotonic() - start)

    with mlflow_server(refused_port, uri, tmp_path / "artifacts") as server:
        mirror = MLflowMirror(folder=folder, uri=server_uri, experiment="test", run_name="run")
        tracker = Tracker(folder=folder, mirror=mirror)
        tracker.params({"depth": 2})
        log(tracker, range(50))
        wait_for(lambda: count_unsent(folder) == 0)
        os.killpg(server.pid, signal.SIGSTOP)  # hung, with requests waiting in its queue
        log(tracker, range(50, 100))
        wait_for(lambda: "does not work" in caplog.text)
        os.killpg(server.pid, signal.SIGCONT)
        wait_for(lambda: count_unsent(folder) == 0)
    log(tracker, range(100, 150))
    tracker.artifact(folder / "figures" / "grid.png")
    start = time.monotonic()
    tracker.finish("FINISHED")
    assert time.monotonic() - start < 12
    assert worst < 0.5
    assert "52 records" in caplog.text and sum("does not work" in r.getMessage() for r in caplog.records) == 1
    with mlflow_server(refused_port, uri, tmp_path / "artifacts"):
        end = time.monotonic() + PATIENCE
        while (report := sync(folder)).error is not None:  # a server's first answers take longer than a request may
            assert time.monotonic() < end, report.error
        assert report.unsent == 0
        assert sync(folder).sent == 0
        stored, logged = stored_metrics(folder), history(folder / "metrics.jsonl")
        assert [step for step, _ in stored.pop("nan")] == [step for step, _ in logged.pop("nan")]
        assert stored == logged
        from mlflow import MlflowClient

        client = MlflowClient(server_uri)
        run = client.get_run(report.run_id)
        assert (run.info.status, run.data.params) == ("FINISHED", {"depth": "2"})
        assert [entry.path for entry in client.list_artifacts(report.run_id, "figures")] == ["figures/grid.png"]
        assert len(client.search_runs([run.info.experiment_id])) == 1
