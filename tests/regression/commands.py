"""Calls pixelflow for the regression cases through its command line, and reads the files that it writes.

Nothing is imported from pixelflow, so that modules can move without a change here. Files are found by pattern, because
the name of a run's folder is no number either.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from tests.forked import Process, ranks

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 500  # for one command; every command here takes less than a minute on an idle core


def call(*arguments: str, cwd: Path, script: str = "run.py", processes: int = 1) -> None:
    """Run a script of the repository on one thread per process and without a GPU, in one or several processes."""
    cwd.mkdir(parents=True, exist_ok=True)
    places = ranks(processes) if processes > 1 else [{}]
    started = [Process(script, *arguments, cwd=cwd, environment=environment() | place) for place in places]
    for process in started:
        if process.wait(SECONDS) != 0:
            tail = "\n".join(process.err.splitlines()[-20:])
            raise RuntimeError(f"{script} {' '.join(arguments)} ended with status {process.returncode}:\n{tail}")


def environment() -> dict[str, str]:
    """The present one without what would make a process part of another job, and with one thread."""
    ours = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    others = ("SLURM_", "HYDRA_", "TORCHELASTIC_", "MASTER_")
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return {k: v for k, v in os.environ.items() if not k.startswith(others) and k not in ranks} | ours


def only(folder: Path, pattern: str) -> Path:
    """The one path below the folder that has this pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise RuntimeError(f"{folder} has {len(found)} paths like {pattern} instead of one: {[str(p) for p in found]}")
    return found[0]


def written(folder: Path, pattern: str, *arguments: str, **options: Any) -> Path:
    """The one path of this pattern that a command adds below the folder."""
    before = set(folder.glob(pattern))
    call(*arguments, cwd=folder, **options)
    added = sorted(set(folder.glob(pattern)) - before)
    if len(added) != 1:
        raise RuntimeError(f"{' '.join(arguments)} wrote {len(added)} files like {pattern} instead of one")
    return added[0]


def run_of(folder: Path, num_stages: int) -> Path:
    """Returns the folder of the run with this number of stages, among the runs of a sweep."""
    for config in sorted(folder.glob("**/config.yaml")):
        if yaml.safe_load(config.read_text())["cascade"]["num_stages"] == num_stages:
            return config.parent
    raise RuntimeError(f"{folder} has no run of cascade.num_stages={num_stages}")


def last_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of the one run below the folder."""
    found = sorted(folder.glob("**/checkpoints/step_*"), key=lambda path: path.name)
    if not found:
        raise RuntimeError(f"{folder} has no checkpoint")
    return found[-1]
