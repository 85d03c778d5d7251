"""One MLflow database for the session, copied per test: making one takes longer than most tests."""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

from pixelflow.tracking.mlflow.database import create_database
from pixelflow.tracking.mlflow.position import MirrorState, store_settings
from tests.forked import IMPORTED


@pytest.fixture(autouse=True)
def quick_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TIMEOUT": "2", "MAX_RETRIES": "0", "BACKOFF_FACTOR": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Makes processes that have MLflow at hand: they start in milliseconds, and can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture
def uri(database_template: Path, tmp_path: Path) -> str:
    """A SQLite file of MLflow's, fresh and whole."""
    shutil.copy(database_template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    def make(uri: str, name: str = "run", **settings: Any) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        defaults = {"experiment": "test", "run_name": name, "parent_run_id": None, "artifact_root": None}
        store_settings(folder=folder, uri=uri, **{**defaults, **settings})
        return folder

    return make


@pytest.fixture
def stored_metrics() -> Callable[[Path], dict[str, list[tuple[int, float]]]]:
    """What MLflow has for a run folder, every stored point of it, in the form of `history`."""
    from mlflow import MlflowClient

    def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
        state = MirrorState.load(folder)
        assert state.run_id is not None
        client = MlflowClient(state.uri)
        names = client.get_run(state.run_id).data.metrics
        points = {name: client.get_metric_history(state.run_id, name) for name in names}
        return {name: sorted((point.step, point.value) for point in values) for name, values in points.items()}

    return read


@pytest.fixture
def refused_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HungServer:
    """Takes connections and never answers."""

    def __init__(self) -> None:
        self.contacted = threading.Event()
        self._connections: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self._connections.append(self._socket.accept()[0])
            except OSError:
                return
            self.contacted.set()

    def close(self) -> None:
        # shutdown wakes the thread that waits in accept; close alone would leave it there, holding the port.
        self._socket.shutdown(socket.SHUT_RDWR)
        for open_socket in (self._socket, *self._connections):
            open_socket.close()


@pytest.fixture
def hung_server() -> Iterator[HungServer]:
    server = HungServer()
    yield server
    server.close()
