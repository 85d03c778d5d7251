"""MLflow's SQLite file, where there is no server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pixelflow.tracking.mlflow_state import lock_file


def create_database(database: Path) -> None:
    """Make MLflow's SQLite file where there is none, whole or not at all, by one process at a time.

    MLflow's own way, in place, breaks where several processes open a fresh file at once, and leaves a file that it
    cannot open again where its process is killed meanwhile. It also waits for the disk after each of hundreds of
    statements, which in memory takes a tenth of the time.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_file(database.with_name(f"{database.name}.lock"), wait=True)
    try:
        if database.exists() and database.stat().st_size > 0:
            return
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
            fresh, aside = Path(folder) / "mlflow.db", database.with_name(f"{database.name}.new")
            SqlAlchemyStore(f"sqlite:///{fresh}", artifacts_beside(database)).engine.dispose()
            with aside.open("wb") as file:
                file.write(fresh.read_bytes())
                file.flush()
                os.fsync(file.fileno())
            aside.rename(database)
    finally:
        if lock is not None:
            lock.close()


def artifacts_beside(database: Path) -> str:
    return (database.parent / "mlartifacts").as_uri()
