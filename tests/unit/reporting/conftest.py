"""Runs as they lie on disk and as they are in memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pixelflow.reporting.runs import Run

RECORD = {"num_samples": 50000, "reference": "held-out", "features": "inception", "nfe": 20}


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder below tmp_path/runs; evaluation=None leaves it out."""

    def write(
        name: str,
        config: dict[str, Any],
        metrics: dict[str, float] | None = None,
        *,
        state: str = "finished",
        message: str = "",
        record: dict[str, Any] = RECORD,
    ) -> Path:
        folder = tmp_path / "runs" / "sweep" / name
        (folder / "evaluation").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        status = {"state": state, "step": 7, "max_steps": 10, "message": message, "updated": 1.0}
        (folder / "status.json").write_text(json.dumps(status))
        if metrics is not None:
            (folder / "evaluation" / "held-out.json").write_text(json.dumps({"metrics": metrics, "record": record}))
        return folder

    return write


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """A run in memory: finished, evaluated, named by its config and seed."""

    def make(config: dict[str, Any], seed: int, metrics: dict[str, float], **changes: Any) -> Run:
        name = "-".join(map(str, [*config.values(), seed]))
        fields = {"record": RECORD, "state": "finished", "folder": None, "name": name} | changes
        return Run(config={"seed": seed, **config}, seed=seed, metrics=metrics, **fields)

    return make
