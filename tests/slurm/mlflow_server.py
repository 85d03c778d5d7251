"""MLflow's server with PostgreSQL, as a cluster would have it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import wait_for

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
needs_postgres = pytest.mark.skipif(
    (BIN is None and shutil.which("initdb") is None) or os.geteuid() != 0, reason="no PostgreSQL, or not root"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def postgres() -> Iterator[str]:
    """Starts PostgreSQL, which refuses to run as root. Yields its address."""
    folder = Path(tempfile.mkdtemp())  # not in pytest's folder, which only root may enter
    shutil.chown(folder, "postgres")
    port, bin_ = free_port(), f"{BIN}/" if BIN else ""

    def as_postgres(*command: str) -> None:
        subprocess.run(["setpriv", "--reuid=postgres", "--clear-groups", *command], check=True, capture_output=True,
                       cwd=folder, timeout=120)  # fmt: skip

    try:
        as_postgres(f"{bin_}initdb", "-D", f"{folder}/data", "-U", "mlflow", "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -k {folder} -c fsync=off"
        as_postgres(f"{bin_}pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            # The driver by name: without one, SQLAlchemy before 2.1 takes psycopg2 and later ones take psycopg.
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        finally:
            as_postgres(f"{bin_}pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@contextmanager
def server(database: str, port: int, artifacts: Path) -> Iterator[str]:
    """Starts MLflow's server and kills it at the end of the block. Yields its address."""
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
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
