"""The experiment in MLflow, and the SQLite file where there is no server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from pixelflow.files import write_aside
from pixelflow.tracking.mlflow.position import MirrorState, lock_file


def create_database(database: Path) -> None:
    """Creates MLflow's SQLite file where it is missing, completely or not at all, by one process at a time.

    MLflow creates it in place. That fails where several processes open a new file at once, and it leaves a file that
    cannot be opened where the process is killed meanwhile. It also waits for the disk after each of hundreds of
    statements; in memory they take a tenth of the time.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_file(database.with_name(f"{database.name}.lock"), wait=True)
    try:
        if database.exists() and database.stat().st_size > 0:
            return
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
            fresh = Path(folder) / "mlflow.db"
            SqlAlchemyStore(f"sqlite:///{fresh}", artifacts_beside(database)).engine.dispose()
            write_aside(database, fresh.read_bytes())
    finally:
        if lock is not None:
            lock.close()


def artifacts_beside(database: Path) -> str:
    """Returns the address of the folder of artifacts beside a SQLite file."""
    return (database.parent / "mlartifacts").as_uri()


def experiment_of(client: Any, state: MirrorState) -> str:
    """Returns the id of the experiment, which is created where it is missing."""
    from mlflow.exceptions import MlflowException

    root = state.artifact_root
    if root is None and state.database is not None:
        root = artifacts_beside(state.database)
    found = client.get_experiment_by_name(state.experiment)
    if found is None:
        try:
            return client.create_experiment(state.experiment, artifact_location=root)
        except MlflowException:  # another process may have created it
            found = client.get_experiment_by_name(state.experiment)
            if found is None:
                raise
    return found.experiment_id
