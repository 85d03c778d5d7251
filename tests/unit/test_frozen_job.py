"""A frozen job as a process of its own, as SLURM starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pixelflow.files import locked
from pixelflow.runs.status import read_status
from pixelflow.signals import CONTINUE
from tests.conf.test_compose import composed
from tests.slurm.cluster import wait_for

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    *("job=train", "tracking=none", "trainer.max_steps=100000", "trainer.batch_size=2", "trainer.warmup_steps=0"),
    *("backbone.depth=1", "trainer.grid_every=0"),
]


@pytest.mark.slow
def test_a_warning_while_it_is_still_importing_is_an_interruption(tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "job.json"
    config = composed(*SETTINGS, f"run_folder={folder}")
    file.write_text(json.dumps({"configs": [config], "overrides": SETTINGS, "folder": str(folder)}))
    command = [sys.executable, "-P", "-m", "pixelflow.frozen_job", str(file)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: catches(process.pid, signal.SIGUSR2), 60, every=0.002)
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(signal.SIGUSR2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == CONTINUE, errors
    status = read_status(folder)
    assert status.state == "interrupted" and status.message == "before it began, SIGUSR2"


@pytest.mark.slow
def test_a_job_waits_for_the_lock_of_its_folder_and_then_works(tmp_path: Path) -> None:
    """As after the loss of a node, whose locks the server of a network filesystem keeps for a while."""
    folder, file, log = tmp_path / "run", tmp_path / "job.json", tmp_path / "log"
    config = composed(*SETTINGS, f"run_folder={folder}")
    file.write_text(json.dumps({"configs": [config], "overrides": SETTINGS, "folder": str(folder)}))
    folder.mkdir()
    command = [sys.executable, "-P", "-m", "pixelflow.frozen_job", str(file)]
    with locked(folder / ".lock"), log.open("w") as stream:
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=stream)
        wait_for(lambda: "run is in use by another process: waiting" in log.read_text(), 120)
        assert read_status(folder).state is None
    wait_for(lambda: read_status(folder).state == "running", 120)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(120) == CONTINUE, log.read_text()
    assert read_status(folder).state == "interrupted"


@pytest.mark.slow
def test_a_frozen_job_uses_a_class_of_the_users_own_package(tmp_path: Path) -> None:
    """Two scales of a guidance schedule that only the user's package has; they share one training."""
    package = tmp_path / "mine" / "guided"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "class Ramp:\n"
        "    def __init__(self, *, top: float) -> None:\n"
        "        self.max_scale = top\n\n"
        "    def scale(self, stage: int, tau: float) -> float:\n"
        "        return 1 + (self.max_scale - 1) * tau\n"
    )
    command = [
        *(sys.executable, str(ROOT / "run.py"), "-m", "hydra/launcher=submitit_local"),
        *("tracking=none", "trainer.max_steps=2"),
        *("trainer.batch_size=4", "trainer.warmup_steps=0", "trainer.grid_every=0", "backbone.depth=1"),
        *("solver.num_steps=2", "sampler.num_samples=20", "sampler.batch_size=10"),
        *("guidance=none", "trust=[guided]", "guidance._target_=guided.Ramp", "+guidance.top=1.5,4.0"),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path / "mine")])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    logs = [path.read_text() for path in tmp_path.glob("runs/*/sweep-*/logs/*")]
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    (run,) = tmp_path.glob("runs/quickstart/*/status.json")
    assert len(read_status(run.parent).evaluations) == 2
    evaluations = [json.loads(path.read_text()) for path in run.parent.glob("evaluation/*.json")]
    assert len({evaluation["metrics"]["fd_digits"] for evaluation in evaluations}) == 2
    (frozen,) = tmp_path.glob("runs/quickstart/sweep-*/submissions/*/batch_0/*.json")
    assert [config["trust"] for config in json.loads(frozen.read_text())["configs"]] == [["guided"]] * 2
    (program,) = tmp_path.glob("runs/quickstart/sweep-*/submissions/*/program.json")
    assert json.loads(program.read_text())["user_paths"] == [str(tmp_path / "mine")]


def catches(pid: int, number: int) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
