from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pixelflow.tracking.mlflow.database import create_database
from pixelflow.tracking.mlflow.position import MirrorState
from pixelflow.tracking.mlflow.sender import MLflowSender


def send_with_others(folder: Path, together: Barrier) -> None:
    sender = MLflowSender(folder=folder)
    together.wait(60)
    sender.send()


def test_several_processes_may_open_a_fresh_file_at_once(
    tmp_path: Path, run_folder: Callable[..., Path], processes: BaseContext
) -> None:
    folders = [run_folder(f"sqlite:///{tmp_path}/new/mlflow.db", name=f"run{i}") for i in range(3)]
    together = processes.Barrier(len(folders))
    senders = [processes.Process(target=send_with_others, args=(folder, together)) for folder in folders]  # type: ignore[attr-defined]
    for process in senders:
        process.start()
    for process in senders:
        process.join(120)
    assert [process.exitcode for process in senders] == [0, 0, 0]
    states = [MirrorState.load(folder) for folder in folders]
    assert len({state.experiment_id for state in states}) == 1
    assert len({state.run_id for state in states} - {None}) == len(folders)


@pytest.mark.slow
def test_a_process_killed_while_it_makes_the_file_leaves_none(tmp_path: Path, processes: BaseContext) -> None:
    from mlflow import MlflowClient

    database = tmp_path / "mlflow.db"
    for seconds in (0.1, 0.3):
        process = processes.Process(target=create_database, args=(database,))  # type: ignore[attr-defined]
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode == -9 and not database.exists()
    create_database(database)
    client = MlflowClient(f"sqlite:///{database}")
    assert client.get_experiment("0").artifact_location == f"{(tmp_path / 'mlartifacts').as_uri()}/0"
    before = database.read_bytes()
    create_database(database)
    assert database.read_bytes() == before
