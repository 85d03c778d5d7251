from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pixelflow.runs.status import held, write_status
from pixelflow.sweeps import mirroring
from pixelflow.sweeps.claims import Claim, Launcher
from pixelflow.sweeps.lost_runs import last_end
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.tracking.jsonl import MetricsLog
from pixelflow.tracking.mlflow.position import store_settings

GONE = Launcher(socket.gethostname(), 2**22 + 1, 0.0)


def test_the_end_that_a_run_could_not_tell_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed after its work was done, before, and not at all: it is at work."""
    monkeypatch.setattr(mirroring, "schedule", lambda *_, **__: {"uri": "none"})
    monkeypatch.setattr(mirroring, "end_parent", lambda *_, **__: None)
    monkeypatch.setattr(mirroring, "sync", lambda folder: SimpleNamespace(sent=0, error=None))
    sweep = Sweep(tmp_path / "sweep", "e", "d")
    for name, state in (("done", "finished"), ("killed", "running"), ("ending", "finished")):
        folder = tmp_path / name
        sweep.jobs[name] = SweepJob(name, str(folder), "train", [], name, 9)
        with MetricsLog(folder) as log:
            log.metrics({"loss": 1.0}, step=1)
        store_settings(folder=folder, uri="http://localhost:1", experiment="e", run_name=name, parent_run_id=None,
                       artifact_root=None)  # fmt: skip
        Claim(str(sweep.folder), "t", "me", 0.0, launcher=GONE).save(folder)
        write_status(folder, state, job="train")
    with held(tmp_path / "ending"):
        for _ in range(2):  # once is enough
            assert mirroring.sync_sweep(sweep) == []
    assert [last_end(tmp_path / name) for name in sweep.jobs] == ["FINISHED", "KILLED", None]
    assert (tmp_path / "done" / "metrics.jsonl").read_text().count("FINISHED") == 1
