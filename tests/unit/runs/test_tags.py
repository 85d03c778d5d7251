"""The tags of a run, as MLflow's page of a run and its table of runs show them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelflow.runs.tags import run_tags


def test_the_tags_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"command": "python /there/run.py -m a.b=1,2", "commit": "c0ffee", "diff": ""}
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    overrides = ["guidance=none", "experiments/arms@_global_=x", "seed=1", "tracking.uri=http://x", "a.b=1"]
    config = {"seed": 1, "arm": None, "question": "Which a?", "overrides": overrides}
    assert run_tags(tmp_path, config) == {
        "mlflow.user": "ada", "mlflow.source.name": "run.py", "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": "c0ffee", "mlflow.note.content": "Which a?\n\n`python /there/run.py -m a.b=1,2`",
        "seed": "1", "guidance": "none", "arms": "x", "a.b": "1",
    }  # fmt: skip
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert run_tags(tmp_path, config | {"arm": "jit x"})["mlflow.source.type"] == "JOB"
    (tmp_path / "provenance.json").write_text(json.dumps(record | {"commit": None}))
    assert "mlflow.source.git.commit" not in run_tags(tmp_path, config)
