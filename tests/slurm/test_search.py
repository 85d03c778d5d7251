"""A search through submitit on a real SLURM, whose controller goes away and two of whose trials are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pixelflow.runs.attempts import read_attempts
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.states import RunState, sweep_states
from pixelflow.tracking.jsonl import history
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.trial import STEPS, loss

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """\
from pixelflow import cli
from pixelflow.config.launchers import register
from pixelflow.sweeps import waiting

cli.register = lambda find_job, *, entry: register(find_job, entry="trial")
waiting.POLL, waiting.RETRY = 1.0, 2.0
cli.main("run")
"""
GOOD = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3]
BAD = [1.0, 2.0, 3.0, 4.0]


def start(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "search.py").write_text(COMMAND)
    (folder / "trial.py").symlink_to(ROOT / "tests" / "slurm" / "trial.py")
    rates = ",".join(str(rate) for rate in [*GOOD, *BAD])
    arguments = [
        *("-m", "hydra/launcher=submitit_slurm", "site=virtual", "hydra/sweeper=pruning", "hydra/sweeper/sampler=grid"),
        *("hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=4"),
        f"hydra.sweeper.params={{optimizer.lr: 'choice({rates})'}}",
        *("hydra.sweeper.pruning.pruner=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruning.upper=20"),
        *("job=train", f"trainer.max_steps={STEPS}", "tracking.uri=http://127.0.0.1:9"),  # no server listens there
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(folder / "output", "wb") as output:
        command = [sys.executable, "search.py", *arguments]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)


def states(folder: Path) -> list[RunState]:
    found = list(folder.glob("runs/quickstart/sweep-*/manifest.json"))
    return sweep_states(Sweep.load(found[0].parent)) if found else []


def rate(state: RunState) -> float:
    (text,) = [override for override in state.job.overrides if override.startswith("optimizer.lr=")]
    return float(text.partition("=")[2])


def supervisor(job: str) -> int:
    """The process of submitit in a job; its task is not among its children."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = (path / "cmdline").read_bytes(), (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"submitit.core._submit" in words and f"SLURM_JOB_ID={job}".encode() in environment:
            return int(path.name)
    raise AssertionError(f"no supervisor of {job}")


def test_a_search_survives_an_outage_of_slurm_and_of_mlflow_and_two_kills(cluster: Cluster, tmp_path: Path) -> None:
    """The value of each trial is as without them, and the pruner stops the four that diverge."""
    started, process = time.monotonic(), start(tmp_path)
    try:

        def at_work() -> list[RunState]:
            return [s for s in states(tmp_path) if s.state == "running" and rate(s) < 1 and 2 <= s.step < STEPS / 3]

        chosen: list[RunState] = []
        while len(chosen) < 2 and process.poll() is None:
            time.sleep(0.2)
            chosen = at_work()
        assert process.poll() is None, (tmp_path / "output").read_text()
        cluster.stop_controller()
        alone, together = chosen[:2]
        for state in (alone, together):
            pid, job = (state.job.path / "process").read_text().split()
            if state is together:
                os.kill(supervisor(job), signal.SIGKILL)
            os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda: "this command waits for SLURM" in (tmp_path / "output").read_text(), 120)
        cluster.start_controller()
        assert process.wait(300) == 0, (tmp_path / "output").read_text()
    finally:
        process.kill()
        cluster.run("scancel", "-u", "root", check=False)
    print(f"12 trials in {time.monotonic() - started:.0f} s")
    ends = states(tmp_path)
    assert sorted((rate(state), state.state) for state in ends) == sorted(
        [*((good, "finished") for good in GOOD), *((bad, "pruned") for bad in BAD)]
    )
    for state in ends:
        if state.state == "finished":
            expected = [(step, loss(rate(state), step)) for step in range(1, STEPS + 1)]
            assert history(state.job.path / "metrics.jsonl")["loss"] == expected
    # The first was queued again under its job id by its supervisor. The second was submitted again by the search, or
    # queued again by SLURM, which does so when a job is missing from its node as the controller returns.
    starts = {state.job.name: (state.job.path / "attempts.jsonl").read_text().count('"start"') for state in ends}
    assert {name for name, count in starts.items() if count > 1} == {alone.job.name, together.job.name}
    assert read_attempts(alone.job.path).restarts == 1 and read_attempts(together.job.path).restarts <= 1
    (results,) = tmp_path.glob("**/optimization_results.yaml")
    assert "optimizer.lr: 0.001\n" in results.read_text()
    output = (tmp_path / "output").read_text()
    assert len(re.findall("is stopped by the pruner", output)) == 4 and "MLflow at http://127.0.0.1:9" in output
