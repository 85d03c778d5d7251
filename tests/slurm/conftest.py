from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.mlflow_server import postgres


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three virtual nodes; this process and what it starts talk to them."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster")).start()
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(cluster.folder / "slurm.conf")
    yield cluster
    cluster.stop()
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@pytest.fixture(autouse=True)
def all_nodes(request: pytest.FixtureRequest) -> None:
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").repair()


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """PostgreSQL for MLflow's server."""
    with postgres() as address:
        yield address
