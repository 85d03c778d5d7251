"""A run folder as earlier versions wrote it is still read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pixelflow.training.reader import checksum
from tests.integration.test_pipeline import TINY, call

NEWER = {"": ("runs_of", "axes", "paper", "settings", "seeds"), "sampler": ("step", "trajectories", "cache_every")}
"""Keys that earlier versions did not have, by section."""


def without_newer(config: dict[str, Any]) -> dict[str, Any]:
    for section, keys in NEWER.items():
        node = config[section] if section else config
        for key in keys:
            node.pop(key, None)
    return config


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose config, checkpoints, evaluation and status have the keys of an earlier version."""
    cwd = tmp_path_factory.mktemp("old")
    done = call(*TINY, "tracking=none", cwd=cwd)
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in cwd.glob("runs/quickstart/*/config.yaml"))
    (run / "config.yaml").write_text(yaml.safe_dump(without_newer(yaml.safe_load((run / "config.yaml").read_text()))))
    for path in run.glob("checkpoints/*/state.json"):
        content = json.loads(path.read_text())
        del content["checksum"]
        content["config"] = without_newer(content["config"])
        path.write_text(json.dumps(content | {"checksum": checksum(content)}))
    (path,) = run.glob("evaluation/*.json")
    content = json.loads(path.read_text())
    for key in ("settings", "other_load"):
        content["record"].pop(key)
    path.unlink()
    (run / "evaluation" / "0a1b2c3d.json").write_text(json.dumps(content))
    status = json.loads((run / "status.json").read_text())
    del status["evaluations"]
    (run / "status.json").write_text(json.dumps(status | {"evaluation": "evaluation/0a1b2c3d.json"}))
    return run


@pytest.mark.slow
def test_a_table_shows_its_evaluation(old_run: Path) -> None:
    done = call("job=table", "job.output=tables", cwd=old_run.parents[2])
    assert done.returncode == 0, done.stderr
    assert "| quickstart | 1 |" in done.stdout and "step 6" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("job", ["sample", "evaluate"])
def test_its_checkpoint_is_sampled_and_measured(job: str, old_run: Path) -> None:
    checkpoint = old_run / "checkpoints" / "step_00000006"
    more = ["tracking=none", "sampler.num_samples=12", "guidance.scale=3"]
    done = call(f"job={job}", f"checkpoint={checkpoint}", *more, cwd=old_run.parents[2])
    assert done.returncode == 0, done.stderr
    if job == "evaluate":
        (path,) = (old_run / "evaluation").glob("step_00000006-*.json")
        record = json.loads(path.read_text())["record"]
        assert record["step"] == 6 and record["settings"]["guidance"]["scale"] == 3 and record["other_load"] >= 0
    else:
        assert len(list(old_run.glob("samples/*/images.npz"))) == 2


@pytest.mark.slow
def test_a_step_is_refused_with_a_checkpoint(old_run: Path) -> None:
    checkpoint = old_run / "checkpoints" / "step_00000006"
    done = call("job=evaluate", f"checkpoint={checkpoint}", "sampler.step=4", cwd=old_run.parents[2])
    assert done.returncode == 2 and "sampler.step=4 chooses a checkpoint for job=pipeline" in done.stderr
