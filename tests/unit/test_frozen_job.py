"""A frozen job as a process of its own, as SLURM starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    file.write_text(json.dumps({"config": config, "overrides": SETTINGS, "folder": str(folder)}))
    command = [sys.executable, "-P", "-m", "pixelflow.frozen_job", str(file)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: catches(process.pid, signal.SIGUSR2), 60, every=0.002)
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(signal.SIGUSR2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == CONTINUE, errors
    status = read_status(folder)
    assert status["state"] == "interrupted" and status["message"] == "before it began, SIGUSR2"


def catches(pid: int, number: int) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
