"""A sweep's parent and children on MLflow's server, whatever happens to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelflow.runs.status import write_status
from pixelflow.sweeps.claims import Claim, Launcher
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.tracking import MLflowMirror, Tracker, history
from pixelflow.tracking.mlflow.children import schedule
from pixelflow.tracking.mlflow.position import MirrorState
from tests.slurm.mlflow_server import free_port, needs_postgres, server

GONE = Launcher(socket.gethostname(), 2**22 + 1, 0.0)

pytestmark = [pytest.mark.slurm, needs_postgres]


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
            Claim(str(sweep.folder), "t", "root", 0.0, launcher=GONE).save(folder)
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
