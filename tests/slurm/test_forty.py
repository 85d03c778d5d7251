"""A bad week in small: a third of a sweep's jobs ended in every way there is, MLflow away for half the time.

Each start costs some 20 s of processor time (imports, most of it), so the forty jobs take a quarter of an hour on two
cores, twelve of them six minutes: they run when PIXELFLOW_JOBS says how many.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import signal
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pixelflow.sweeps import slurm
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.states import RunState, sweep_states
from pixelflow.tracking import history
from pixelflow.tracking.mlflow.database import create_database
from pixelflow.tracking.mlflow.position import MirrorState, count_unsent
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.test_mlflow_server import free_port, server
from tests.slurm.test_signals import preempt
from tests.slurm.test_sweep import SLURM, Checkout, active

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("PIXELFLOW_JOBS" not in os.environ, reason="PIXELFLOW_JOBS=12 or 40 says how many jobs"),
]

JOBS = int(os.environ.get("PIXELFLOW_JOBS", "12"))
STEPS = 60
SETTINGS = [
    *(f"trainer.max_steps={STEPS}", "trainer.batch_size=8", "trainer.save_every=10", "trainer.log_every=5"),
    *("trainer.grid_every=0", "trainer.warmup_steps=0", "backbone.depth=1", "solver.num_steps=2"),
    *("sampler.num_samples=20", "sampler.batch_size=10"),
]


class Mlflow:
    """Its server with a database that outlives it."""

    def __init__(self, folder: Path) -> None:
        create_database(folder / "server.db")
        self.folder, self.port = folder, free_port()
        self.runs: ExitStack | None = None

    def start(self) -> None:
        if self.runs is None:
            stack = ExitStack()
            database = f"sqlite:///{self.folder / 'server.db'}"
            stack.enter_context(server(database, self.port, self.folder / "artifacts"))
            self.runs = stack

    def stop(self) -> None:
        if self.runs is not None:
            self.runs.close()
            self.runs = None


class Chaos:
    """Ends `count` of a sweep's runs, one way after the other, and stops MLflow while the middle half finishes.

    Which runs and when is drawn: at the start of a run, or once it has made some number of steps. A run that is over
    before it is hit leaves its place to another.
    """

    def __init__(self, cluster: Cluster, folder: Path, spared: set[str], count: int, mlflow: Mlflow) -> None:
        self.cluster, self.folder, self.spared, self.count, self.mlflow = cluster, folder, spared, count, mlflow
        self.seen: set[str] = set()
        self.chosen: dict[str, int] = {}
        self.done: list[tuple[str, str, int]] = []
        self.problems: list[BaseException] = []
        self.over = threading.Event()
        self.random = random.Random(1)
        self.ways: list[Callable[[RunState], object]] = [
            *(self._usr2, self._requeue, self._kill_9, self._node_down, self._preempt, self._time_limit, self._cancel)
        ]
        self.threads = [threading.Thread(target=self._repeat, args=(w,), daemon=True) for w in (self._serve, self._hit)]

    def _repeat(self, work: Callable[[list[RunState]], None]) -> None:
        while not self.over.wait(1):
            try:
                work(sweep_states(Sweep.load(self.folder)))
            except Exception as error:  # shown at the end
                self.problems.append(error)

    def _serve(self, states: list[RunState]) -> None:
        finished = sum(state.state == "finished" for state in states) / len(states)
        if self.mlflow.runs and 0.25 < finished < 0.75:
            self.mlflow.stop()
        elif not self.mlflow.runs and finished >= 0.75:
            self.mlflow.start()

    def _hit(self, states: list[RunState]) -> None:
        # What came too late for its run, which was ending, does not count.
        late = {state.job.name for state in states if state.state == "finished" and starts(state.job.path) == 1}
        self.done = [entry for entry in self.done if entry[1] not in late]
        there = {state.job.name for state in states if state.state in ("starting", "running")}
        self.chosen = {name: step for name, step in self.chosen.items() if name in there}
        hit = {name for _, name, _ in self.done}
        left = {state.job.name for state in states if state.state != "finished"} - self.spared - hit
        for state in states:
            name = state.job.name
            if name in (left & there) - self.chosen.keys():
                missing = self.count - len(hit) - len(self.chosen)
                unseen = len(states) - len(self.spared) - len(self.seen)
                if missing >= len(left - self.chosen.keys()):  # these are the last
                    self.chosen[name] = 0
                elif name not in self.seen and self.random.random() < missing / unseen:
                    self.chosen[name] = self.random.choice((0, self.random.randint(1, STEPS)))
                self.seen.add(name)
            if name in self.chosen and state.step >= self.chosen[name]:
                known = [way for way, _, _ in self.done]
                way = min(self.ways, key=lambda way: known.count(way.__name__))
                if way(state) is not False:
                    self.done.append((way.__name__, name, state.step))
                    del self.chosen[name]
                return  # what the others do has changed

    def _scancel(self, *words: str) -> bool:
        """Of a job that has just ended or begun it tries for a minute and a half."""
        try:
            self.cluster.run("timeout", "5", "scancel", *words)
        except RuntimeError:
            return False
        return True

    def _usr2(self, state: RunState) -> bool:
        return self._scancel("--signal=USR2", state.slurm)

    def _requeue(self, state: RunState) -> None:
        self.cluster.run("scontrol", "requeue", state.slurm, check=False)  # it may have ended

    def _kill_9(self, state: RunState) -> bool:
        found = False
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"pixelflow.frozen_job" in words and state.job.name.encode() in words[-2] and b"srun" not in words[0]:
                os.kill(int(path.parent.name), signal.SIGKILL)
                found = True
        return found

    def _node_down(self, state: RunState) -> None:
        self.cluster.stop_node(state.node)
        self.cluster.run("scontrol", "update", f"nodename={state.node}", "state=down", "reason=test")
        time.sleep(2)
        self.cluster.start_node(state.node)
        # A node that came back by itself refuses to be resumed.
        self.cluster.run("scontrol", "update", f"nodename={state.node}", "state=resume", check=False)

    def _preempt(self, state: RunState) -> None:
        preempt(self.cluster, state.slurm)

    def _time_limit(self, state: RunState) -> None:
        """Of a minute, so that it is told now; the old limit afterwards, or no later start could go on."""
        self.cluster.run("scontrol", "update", f"jobid={state.slurm}", "timelimit=1", check=False)
        wait_for(lambda: slurm.state_of(state.slurm) != "RUNNING", 90)
        self.cluster.run("scontrol", "update", f"jobid={state.slurm}", "timelimit=10", check=False)

    def _cancel(self, state: RunState) -> bool:
        return self._scancel(state.slurm)


def test_a_bad_week_ends_with_one_true_table(cluster: Cluster, tmp_path: Path) -> None:
    checkout, mlflow = Checkout(tmp_path), Mlflow(tmp_path)
    runs = ["{seed:" + str(seed) + "}" for seed in range(JOBS - 1)] + [f"{{seed:{JOBS - 1},optimizer.lr:1e30}}"]
    command = [*SLURM, *SETTINGS, f"settings=[{','.join(runs)}]", f"tracking.uri=http://127.0.0.1:{mlflow.port}"]
    started = time.monotonic()
    mlflow.start()
    checkout.run(*command)
    sweep = Sweep.load(checkout.sweep())
    (bad,) = [name for name, job in sweep.jobs.items() if "optimizer.lr=" in shlex.join(job.overrides)]
    hits = max(7, round(0.3 * JOBS))  # each way once
    chaos = Chaos(cluster, sweep.folder, {bad}, hits + 2, mlflow)  # some may come too late
    for thread in chaos.threads:
        thread.start()
    try:
        for repeat in range(3):
            if repeat:
                checkout.run(*command, status=None)
            wait_for(lambda: not active(), 3000, every=2)
            states = sweep_states(Sweep.load(sweep.folder))
            if sum(state.state == "finished" for state in states) == JOBS - 1:
                break
    finally:
        chaos.over.set()
        for thread in chaos.threads:
            thread.join(500)
        mlflow.stop()
    print(f"{JOBS} jobs in {time.monotonic() - started:.0f} s, {repeat} repeats; hit: {chaos.done}")
    sweep = Sweep.load(sweep.folder)
    print(f"whole in MLflow before job=sync: {sum(not count_unsent(job.path) for job in sweep.jobs.values())}")
    assert not chaos.problems and len(chaos.done) >= hits
    assert all(starts(sweep.jobs[name].path) > 1 for _, name, _ in chaos.done)
    try:
        mlflow.start()
        checkout.run("job=sync", f"sweep={sweep.folder}")
        status = checkout.run("job=status", f"sweep={sweep.folder}", status=1)
        assert f"{JOBS - 1} finished, 1 failed of {JOBS}" in status
        assert re.search(rf"^{bad} +failed.*\n +.*is not finite at step", status, re.M), status
        check_table(sweep, bad)
        check_mlflow(sweep)
    finally:
        mlflow.stop()


def starts(folder: Path) -> int:
    return (folder / "attempts.jsonl").read_text().count('"event": "start"')


def check_table(sweep: Sweep, bad: str) -> None:
    """As the sweep's last job left it: mean and spread over all evaluations."""
    rows = list(csv.DictReader((sweep.folder / "table.csv").open()))
    (row,) = [row for row in rows if row["seeds"] == str(JOBS - 1)]
    assert not any(row["accuracy_mean"] for row in rows if row["seeds"] != str(JOBS - 1))
    values = []
    for name, job in sweep.jobs.items():
        if name != bad:
            (evaluation,) = job.path.glob("evaluation/*.json")
            values.append(json.loads(evaluation.read_text())["metrics"]["accuracy"])
    assert float(row["accuracy_mean"]) == pytest.approx(statistics.mean(values))
    assert float(row["accuracy_std"]) == pytest.approx(statistics.stdev(values))


def check_mlflow(sweep: Sweep) -> None:
    """Every metric of every run exactly once, and every run's end."""
    from mlflow.tracking import MlflowClient

    client, parent = MlflowClient(sweep.mlflow["uri"]), sweep.mlflow["parent_run_id"]
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'", max_results=1000)
    assert len(found) == len(sweep.jobs)
    metrics = 0
    for state in sweep_states(sweep):
        run = client.get_run(str(MirrorState.load(state.job.path).run_id))
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == ("FINISHED" if state.state == "finished" else "FAILED"), state
        for name, ours in history(state.job.path / "metrics.jsonl").items():
            theirs = client.get_metric_history(run.info.run_id, name)
            assert sorted((entry.step, entry.value) for entry in theirs) == ours, (state.job.name, name)
            metrics += len(ours)
    print(f"{metrics} values of {len(found)} runs, each once in MLflow")
