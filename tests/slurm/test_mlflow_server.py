"""MLflow's server with PostgreSQL, as a cluster would have it: a sweep's parent and children whatever happens."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pixelflow.runs.status import write_status
from pixelflow.sweeps.claims import Claim
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.tracking import MLflowMirror, Tracker, history
from pixelflow.tracking.mlflow.children import schedule
from pixelflow.tracking.mlflow.position import MirrorState
from tests.slurm.cluster import wait_for

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
POSTGRES = BIN is not None or shutil.which("initdb") is not None
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not POSTGRES or os.geteuid() != 0, reason="no PostgreSQL, or not root"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """PostgreSQL, which refuses to run as root, on a port of its own."""
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    shutil.chown(folder, "postgres")
    port, bin_ = free_port(), f"{BIN}/" if BIN else ""

    def as_postgres(*command: str) -> None:
        subprocess.run(["setpriv", "--reuid=postgres", "--clear-groups", *command], check=True, capture_output=True,
                       cwd=folder, timeout=120)  # fmt: skip

    as_postgres(f"{bin_}initdb", "-D", f"{folder}/data", "-U", "mlflow", "--auth=trust", "-E", "UTF8")
    options = f"-p {port} -k {folder} -c fsync=off"
    as_postgres(f"{bin_}pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
    # The driver by name: without one, SQLAlchemy before 2.1 takes psycopg2 and later ones take psycopg.
    yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    as_postgres(f"{bin_}pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@contextmanager
def server(database: str, port: int, artifacts: Path) -> Iterator[str]:
    import requests

    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--artifacts-destination",
               str(artifacts), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    path = artifacts.with_name("mlflow.log")
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # of language models: five processes
    with open(path, "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    uri = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, path.read_text()[-2000:]
        try:
            return requests.get(f"{uri}/health", timeout=2).ok
        except requests.RequestException:
            return False

    try:
        wait_for(answers, 400)
        yield uri
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
            process.wait(60)


def test_four_jobs_at_once_and_a_server_that_is_away_for_half_the_time(database: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    folders = [tmp_path / f"run-{n}" for n in range(4)]
    for folder in folders:
        folder.mkdir()
    port = free_port()
    sweep = Sweep(tmp_path / "sweep", "test", "0")
    with server(database, port, tmp_path / "artifacts") as uri:
        tags = {folder: {"seed": str(n)} for n, folder in enumerate(folders)}
        sweep.mlflow = schedule(tags, uri=uri, experiment="test", name="sweep-1")
        client = MlflowClient(uri)
        parent = sweep.mlflow["parent_run_id"]
        experiment = client.get_experiment_by_name("test")
        assert experiment is not None
        states = {run.data.tags["seed"]: run.info.status for run in children(client, experiment.experiment_id, parent)}
        assert states == dict.fromkeys("0123", "SCHEDULED") and client.get_run(parent).info.status == "RUNNING"
        ids = [MirrorState.load(folder).run_id for folder in folders]
        in_parallel(lambda folder: log(folder, uri, range(0, 50), "KILLED"), folders)
    # The third is killed when its work is done but not told, the fourth before.
    in_parallel(lambda folder: log(folder, uri, range(50, 100), "FINISHED" if folder in folders[:2] else None), folders)
    with server(database, port, tmp_path / "artifacts") as uri:
        for n, folder in enumerate(folders):
            name = f"run-{n}"
            sweep.jobs[name] = SweepJob(name, str(folder), "train", [], name, 100)
            Claim(str(sweep.folder), "t", "root", 0.0, f"pid {2**22 + 1}").save(folder)
            write_status(folder, "finished" if n < 3 else "running", job="train")
        from pixelflow.sweeps.mirroring import sync_sweep

        assert sync_sweep(sweep) == []
        runs = children(client, experiment.experiment_id, parent)
        assert sorted(run.info.run_id for run in runs) == sorted(str(run) for run in ids)
        assert sorted(run.info.status for run in runs) == ["FINISHED"] * 3 + ["KILLED"]
        for folder in folders:
            run_id = MirrorState.load(folder).run_id
            stored = client.get_metric_history(run_id, "loss")
            assert sorted((entry.step, entry.value) for entry in stored) == history(folder / "metrics.jsonl")["loss"]
            assert len(stored) == 100


def children(client: object, experiment: str, parent: str) -> list:
    return client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")  # type: ignore[attr-defined]


def log(folder: Path, uri: str, steps: range, end: str | None) -> None:
    mirror = MLflowMirror(folder=folder, uri=uri, experiment="test", run_name=folder.name)
    tracker = Tracker(folder=folder, mirror=mirror)
    for step in steps:
        tracker.log({"loss": 1 / (step + 1)}, step)
    if end is not None:
        tracker.finish(end)  # type: ignore[arg-type]
    else:
        mirror.close(2)


def in_parallel(work: Callable[[Path], None], folders: list[Path]) -> None:
    threads = [threading.Thread(target=work, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
