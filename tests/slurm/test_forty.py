"""A bad week in small: jobs ended in every way there is, MLflow's server away for half the time.

There are twelve jobs, or PIXELFLOW_JOBS. Each start of one costs some 10 s of processor time, most of it imports.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pixelflow.errors import WorkFailed
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.states import sweep_states
from pixelflow.tracking import history
from pixelflow.tracking.mlflow.position import MirrorState, count_unsent
from tests.slurm.chaos import Chaos
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.mlflow_server import free_port, needs_postgres, server
from tests.slurm.test_sweep import Checkout, active

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(3600), needs_postgres]

JOBS = int(os.environ.get("PIXELFLOW_JOBS", "12"))
HIT = min(JOBS - 1, max(round(JOBS / 2), 12))
"""Runs to hit: as many as there are ways, or a half."""
STEPS = 60
SETTINGS = [
    *(f"trainer.max_steps={STEPS}", "trainer.batch_size=8", "trainer.save_every=10", "trainer.log_every=5"),
    *("trainer.grid_every=0", "trainer.warmup_steps=0", "backbone.depth=1", "solver.num_steps=2"),
    *("sampler.num_samples=20", "sampler.batch_size=10"),
]


class Unreliable:
    """MLflow's server, which is up for a while, then killed and away for as long, again and again.

    Args:
        database: The address of its database, which stays.
        folder: The folder of its artifacts.
        period: Seconds for which it is up or away.
    """

    def __init__(self, database: str, folder: Path, period: float = 30.0) -> None:
        self.database, self.folder, self.period, self.port = database, folder, period, free_port()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._change)
        self.stack = ExitStack()
        self.away = 0.0

    def __enter__(self) -> Unreliable:
        self.start()
        self.began = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()
        self.share = self.away / (time.monotonic() - self.began)
        self.stack.close()

    def start(self) -> None:
        self.stack.enter_context(server(self.database, self.port, self.folder / "artifacts"))

    def _change(self) -> None:
        up = self.period
        while not self.over.wait(up):
            self.stack.close()
            before = time.monotonic()
            self.over.wait(self.period)
            self.start()  # which takes a while
            up = time.monotonic() - before
            self.away += up


def test_a_bad_week_ends_with_one_true_table(cluster: Cluster, database: str, tmp_path: Path) -> None:
    checkout, mlflow = Checkout(tmp_path), Unreliable(database, tmp_path)
    seed = int(os.environ.get("PIXELFLOW_SEED", "1"))
    runs = ["{seed:" + str(number) + "}" for number in range(JOBS - 1)] + [f"{{seed:{JOBS - 1},optimizer.lr:1e30}}"]
    sweep_of = [*SETTINGS, f"settings=[{','.join(runs)}]"]
    command = [
        "hydra/launcher=submitit_slurm",
        "site=virtual",
        *sweep_of,
        f"tracking.uri=http://127.0.0.1:{mlflow.port}",
    ]
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool, mlflow:
        checkout.run(*command)
        sweep = Sweep.load(checkout.sweep())
        straight = pool.submit(
            checkout.run, "-m", *sweep_of, "tracking=none", "runs_dir=straight", status=1, timeout=3000
        )
        (bad,) = [name for name, job in sweep.jobs.items() if "optimizer.lr=" in shlex.join(job.overrides)]
        with Chaos(cluster, sweep, spared={bad}, count=HIT, steps=STEPS, seed=seed) as chaos:
            wait_until_over()
        assert not chaos.problems, chaos.problems
        first = Counter(state.state for state in sweep_states(sweep))
        pickles = pickles_of(sweep)
        if repeated := first["finished"] < JOBS - 1:
            checkout.run(*command, status=None)
            wait_until_over()
    hits = [hit for hit in chaos.hits if starts(sweep.jobs[hit.run].path) > 1]  # the others came too late
    print(f"{JOBS} jobs in {time.monotonic() - started:.0f} s; MLflow away for {mlflow.share:.0%} of the time")
    print(f"hit: {', '.join(map(str, hits))}; too late: {len(chaos.hits) - len(hits)}; seed {seed}")
    print(f"starts: {sorted(starts(job.path) for job in sweep.jobs.values())}; repeated: {repeated}, after {first}")
    sweep = Sweep.load(sweep.folder)
    print(f"whole in MLflow before job=sync: {sum(not count_unsent(job.path) for job in sweep.jobs.values())}")
    assert len(hits) >= 0.3 * JOBS
    assert pickles.items() <= pickles_of(sweep).items()
    with server(database, mlflow.port, tmp_path / "artifacts"):
        checkout.run("job=sync", f"sweep={sweep.folder}")
        status = checkout.run("job=status", f"sweep={sweep.folder}", status=1)
        assert f"{JOBS - 1} finished, 1 failed of {JOBS}" in status
        assert re.search(rf"^{bad} +failed.*\n +.*is not finite at step", status, re.M), status
        check_mlflow(sweep)
    check_table(sweep, bad)
    straight.result()
    for name in sweep.jobs.keys() - {bad}:  # the name lists the overrides in another order there
        (theirs,) = checkout.cwd.glob(f"straight/quickstart/*-{name.split('-')[-1]}")
        check_as_undisturbed(sweep.jobs[name].path, theirs)


def wait_until_over() -> None:
    def over() -> bool:
        try:
            return not active()
        except WorkFailed:  # the controller is away
            return False

    wait_for(over, 3000, every=1)


def starts(folder: Path) -> int:
    return (folder / "attempts.jsonl").read_text().count('"event": "start"')


def pickles_of(sweep: Sweep) -> dict[Path, bytes]:
    """Returns what submitit starts."""
    return {path: path.read_bytes() for path in sweep.folder.glob("submissions/*/submitit/*_submitted.pkl")}


def evaluation_of(folder: Path) -> dict[str, float]:
    (file,) = folder.glob("evaluation/*.json")
    metrics = json.loads(file.read_text())["metrics"]
    return {name: value for name, value in metrics.items() if name != "seconds_per_image"}


def check_table(sweep: Sweep, bad: str) -> None:
    """As the sweep's last job left it: mean and spread over all evaluations. The failed run is named."""
    rows = list(csv.DictReader((sweep.folder / "table.csv").open()))
    (row,) = [row for row in rows if row["seeds"] == str(JOBS - 1)]
    assert not any(row["accuracy_mean"] for row in rows if row["seeds"] != str(JOBS - 1))
    values = [evaluation_of(job.path)["accuracy"] for name, job in sweep.jobs.items() if name != bad]
    assert float(row["accuracy_mean"]) == pytest.approx(statistics.mean(values))
    assert float(row["accuracy_std"]) == pytest.approx(statistics.stdev(values))
    assert re.search(rf"{bad}.*failed", (sweep.folder / "table.md").read_text())


def check_as_undisturbed(ours: Path, theirs: Path) -> None:
    """The weights, the losses and the evaluation are those of a run from beginning to end in one process."""
    last = f"checkpoints/step_{STEPS:08d}"
    for name in ("model", "ema", "optimizer"):
        a, b = (load_file(folder / last / f"{name}.safetensors") for folder in (ours, theirs))
        assert a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a), (ours, name)
    a, b = (history(folder / "metrics.jsonl") for folder in (ours, theirs))
    assert a["loss"] == b["loss"] and len(a["loss"]) == STEPS // 5
    assert evaluation_of(ours) == evaluation_of(theirs)


def check_mlflow(sweep: Sweep) -> None:
    """Every metric of every run exactly once, and every run's end."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(sweep.mlflow["uri"])
    experiment = client.get_experiment_by_name(sweep.experiment)
    assert experiment is not None
    everything = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run.info.run_id for run in everything if "mlflow.parentRunId" not in run.data.tags]
    assert len(everything) == 1 + len(sweep.jobs)
    metrics = 0
    for state in sweep_states(sweep):
        run = client.get_run(str(MirrorState.load(state.job.path).run_id))
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == ("FINISHED" if state.state == "finished" else "FAILED"), state
        for name, ours in history(state.job.path / "metrics.jsonl").items():
            theirs = client.get_metric_history(run.info.run_id, name)
            assert sorted((entry.step, entry.value) for entry in theirs) == ours, (state.job.name, name)
            metrics += len(ours)
    print(f"{metrics} values of {len(sweep.jobs)} runs, each once in MLflow")
