from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelflow.tracking.jsonl import MetricsLog, history
from pixelflow.tracking.mlflow import worker as mlflow_process
from pixelflow.tracking.mlflow.position import MirrorState
from pixelflow.tracking.mlflow.sender import MLflowSender
from pixelflow.tracking.mlflow.worker import keep_sending


def log_steps(folder: Path, steps: range) -> None:
    with MetricsLog(folder) as log:
        for step in steps:
            log.metrics({"loss": 1 / (step + 1)}, step=step)


def test_while_mlflow_is_away_there_is_one_warning_and_then_all_is_sent(
    uri: str,
    run_folder: Callable[..., Path],
    stored_metrics: Callable[[Path], dict],
    refused_port: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlflow_process, "WAKE_EVERY", 0.02)
    monkeypatch.setattr(mlflow_process, "LONGEST_PAUSE", 0.05)
    folder = run_folder(f"http://127.0.0.1:{refused_port}")
    log_steps(folder, range(3))
    sender, stop, attempts = MLflowSender(folder=folder, session_start=0), threading.Event(), threading.Semaphore(0)
    connect = sender._connect
    monkeypatch.setattr(sender, "_connect", lambda: (attempts.release(), connect()))
    thread = threading.Thread(target=keep_sending, args=(sender, stop))
    thread.start()
    for _ in range(4):
        assert attempts.acquire(timeout=30)
    # "The server comes back" under another address, so that the test needs no server.
    run_folder(uri)
    sender.state = MirrorState.load(folder)
    log_steps(folder, range(3, 6))
    stop.set()
    thread.join(30)
    sender.close()
    assert not thread.is_alive()
    away = [record.getMessage() for record in caplog.records if "does not work" in record.getMessage()]
    assert len(away) == 1 and str(refused_port) in away[0] and "what was missed is sent later" in away[0]
    assert stored_metrics(folder) == history(folder / "metrics.jsonl")


def test_pauses_grow_while_mlflow_is_away_and_end_at_once_on_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            self.pauses: list[float | None] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.pauses.append(timeout)
            if len(self.pauses) == 8:
                self.set()
            return self.is_set()

    class Sender:
        state = type("State", (), {"uri": "http://host"})
        calls = 0

        def send(self) -> None:
            self.calls += 1
            if self.calls <= 7:
                raise ConnectionError("refused")

    sender, stop, start = Sender(), Stop(), time.monotonic()
    keep_sending(sender, stop)  # type: ignore[arg-type]
    assert stop.pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 1.0]
    assert sender.calls == 9 and time.monotonic() - start < 1
