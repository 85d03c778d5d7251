"""Fixtures of the tests that submit sweeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixelflow.sweeps import slurm
from pixelflow.sweeps.manifest import Sweep
from tests.unit.sweeps.fake_slurm import FakeSlurm


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeSlurm:
    fake = FakeSlurm(tmp_path_factory.mktemp("slurm") / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(slurm, "queue", fake.queue)
    monkeypatch.setattr(slurm, "array_limit", lambda: 1000)
    return fake


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(folder=tmp_path / "sweep", experiment="e", digest="d")
