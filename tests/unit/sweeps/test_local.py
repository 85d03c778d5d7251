"""hydra/launcher=local with small tasks in place of trainings (tests/slurm/task.py)."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pixelflow.errors import Interrupted
from pixelflow.runs.attempts import read_attempts
from pixelflow.runs.snapshot import Snapshot
from pixelflow.sweeps.local import run_batch, share_gpus
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import sweep_states
from pixelflow.sweeps.submission import plan, submit
from tests.slurm.task import undisturbed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """What a sweep needs of the package, with the small task in place of frozen_job."""
    package = tmp_path / "code" / "pixelflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in ("runs", "sweeps", "signals.py", "files.py", "errors.py"):
        (package / name).symlink_to(ROOT / "pixelflow" / name)
    (package / "frozen_job.py").symlink_to(ROOT / "tests" / "slurm" / "task.py")
    return tmp_path / "code"


def give(folder: Path, code: Path, *settings: dict[str, Any], processes: int = 2) -> Sweep:
    sweep = Sweep(folder / "sweep", "e", "d")
    site = Site(processes=processes, max_stalls=2)
    entries = []
    for number, given in enumerate(settings):
        config = {"steps": 10, "seconds": 0.02, "save_every": 2, "job": {"name": "train"}, **given}
        entries.append((SweepJob(f"r{number}", str(folder / f"r{number}"), "train", [], str(number), 10), config))
    submit(sweep, plan(entries, site), site, Snapshot(str(code), "", ""), launcher="local", cwd=folder)
    return sweep


def test_runs_end_as_they_should(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {}, {"fails_at": 3}, {"dies_at": 5}, {})
    run_batch(sweep)
    states = sweep_states(sweep)
    assert [state.state for state in states] == ["finished", "failed", "failed", "finished"]
    assert states[1].message == "the loss is not finite" and states[1].failures == 1
    assert read_attempts(tmp_path / "r2").failures == 1 and "without a step of progress" in states[2].message
    assert (tmp_path / "r0" / "result").read_text() == str(undisturbed(10))
    assert "ValueError: the loss is not finite" in (sweep.folder / "logs" / "r1.log").read_text()


def test_a_signal_saves_what_runs_and_starts_nothing_more(tmp_path: Path, code: Path) -> None:
    sweep = give(tmp_path, code, {"seconds": 0.2}, {}, processes=1)

    def stop() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and sweep_states(sweep)[0].step < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match="2 of 2 runs are left"):
        run_batch(sweep)
    status = json.loads((tmp_path / "r0" / "status.json").read_text())
    assert status["state"] == "interrupted" and status["step"] >= 2
    assert not (tmp_path / "r1" / "pids").exists()


def test_gpus_are_shared_out() -> None:
    four = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,5"}
    assert share_gpus(Site(processes=4, gpus_per_node=2), four) == [["0", "1"], ["2", "3"]]
    assert share_gpus(Site(processes=1, gpus_per_node=2), four) == [["0", "1"]]
    assert share_gpus(Site(processes=2), four) == [[], []]
    with pytest.raises(ValueError, match=r"site.gpus_per_node=8: this machine shows 5 GPUs"):
        share_gpus(Site(gpus_per_node=8), four)
