"""A bad week in small: forty jobs, a third of them ended in every way there is, MLflow away for half the time.

PIXELFLOW_JOBS=8 makes it a smaller one.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pixelflow.launch import slurm
from pixelflow.launch.states import RunState, sweep_states
from pixelflow.launch.sweep import Sweep
from pixelflow.tracking import history
from pixelflow.tracking.mlflow_database import create_database
from pixelflow.tracking.mlflow_state import MirrorState
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.test_mlflow_server import free_port, server
from tests.slurm.test_signals import preempt
from tests.slurm.test_sweep import SLURM, Checkout

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(3600)]

JOBS = int(os.environ.get("PIXELFLOW_JOBS", "40"))
SETTINGS = [
    *("trainer.max_steps=200", "trainer.batch_size=8", "trainer.save_every=10", "trainer.log_every=10"),
    *("trainer.grid_every=0", "trainer.warmup_steps=0", "backbone.depth=1", "solver.num_steps=2"),
    *("sampler.num_samples=20", "sampler.batch_size=10"),
]


class Chaos:
    """Ends `victims` of a sweep's runs, one way after the other, and stops MLflow while the middle half finishes."""

    def __init__(self, cluster: Cluster, folder: Path, victims: set[str], mlflow: Callable[[], ExitStack]) -> None:
        self.cluster, self.folder, self.left, self.mlflow = cluster, folder, set(victims), mlflow
        self.server: ExitStack | None = mlflow()
        self.done: list[str] = []
        self.problems: list[BaseException] = []
        self.over = threading.Event()
        self.random = random.Random(1)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        ways = [self._usr2, self._requeue, self._kill_9, self._node_down, self._preempt, self._time_limit, self._cancel]
        while not self.over.wait(1):
            try:
                states = sweep_states(Sweep.load(self.folder))
                finished = sum(state.state == "finished" for state in states) / len(states)
                if self.server is not None and 0.25 < finished < 0.75:
                    self.server.close()
                    self.server = None
                elif self.server is None and finished >= 0.75:
                    self.server = self.mlflow()
                for state in states:
                    if (
                        state.job.name in self.left
                        and state.state in ("starting", "running")
                        and self.random.random() < 0.4
                    ):
                        way = ways[len(self.done) % len(ways)]
                        if way(state) is not False:
                            self.left.discard(state.job.name)
                            self.done.append(way.__name__)
            except Exception as error:  # shown at the end
                self.problems.append(error)

    def _usr2(self, state: RunState) -> None:
        self.cluster.run("scancel", "--signal=USR2", state.slurm)

    def _requeue(self, state: RunState) -> None:
        self.cluster.run("scontrol", "requeue", state.slurm)

    def _kill_9(self, state: RunState) -> bool:
        found = False
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"pixelflow.jobs.frozen" in words and state.job.name.encode() in words[-2] and b"srun" not in words[0]:
                os.kill(int(path.parent.name), signal.SIGKILL)
                found = True
        return found

    def _node_down(self, state: RunState) -> None:
        self.cluster.stop_node(state.node)
        self.cluster.run("scontrol", "update", f"nodename={state.node}", "state=down", "reason=test")
        time.sleep(2)
        self.cluster.start_node(state.node)
        self.cluster.run("scontrol", "update", f"nodename={state.node}", "state=resume")

    def _preempt(self, state: RunState) -> None:
        preempt(self.cluster, state.slurm)

    def _time_limit(self, state: RunState) -> None:
        self.cluster.run("scontrol", "update", f"jobid={state.slurm}", "timelimit=1")

    def _cancel(self, state: RunState) -> None:
        self.cluster.run("scancel", state.slurm)


def test_a_bad_week_ends_with_one_true_table(cluster: Cluster, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    checkout, port = Checkout(tmp_path), free_port()
    create_database(tmp_path / "server.db")
    database = f"sqlite:///{tmp_path / 'server.db'}"

    def mlflow() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(server(database, port, tmp_path / "artifacts"))
        return stack

    runs = ["{seed:" + str(seed) + "}" for seed in range(JOBS - 1)] + [f"{{seed:{JOBS - 1},optimizer.lr:1e30}}"]
    command = [*SLURM, *SETTINGS, f"settings=[{','.join(runs)}]", f"tracking.uri=http://127.0.0.1:{port}"]
    started = time.monotonic()
    stack = mlflow()
    checkout.run(*command)
    stack.close()
    sweep = Sweep.load(checkout.sweep())
    names = [name for name, job in sweep.jobs.items() if "1e30" not in shlex.join(job.overrides)]
    chaos = Chaos(cluster, sweep.folder, set(random.Random(0).sample(names, round(0.3 * JOBS))), mlflow)
    chaos.thread.start()
    try:
        for repeat in range(3):
            if repeat:
                checkout.run(*command, status=None)
            wait_for(lambda: not [e for e in slurm.queue({"root"}).values() if e.active], 3000, every=2)
            states = sweep_states(Sweep.load(sweep.folder))
            if sum(state.state == "finished" for state in states) == JOBS - 1:
                break
    finally:
        chaos.over.set()
        chaos.thread.join(300)
    print(
        f"{JOBS} jobs in {time.monotonic() - started:.0f} s, {repeat} repeats, {chaos.done}, problems {chaos.problems}"
    )
    assert not chaos.left and not chaos.problems
    if chaos.server is None:
        chaos.server = mlflow()
    with chaos.server:
        checkout.run("job=sync", f"sweep={sweep.folder}")
        status = checkout.run("job=status", f"sweep={sweep.folder}", status=1)
        assert f"{JOBS - 1} finished, 1 failed of {JOBS}" in status
        assert "is not finite at step" in status
        again = checkout.run(*command, status=None)
        assert f"| {JOBS - 1} |" in again  # seeds in the table's one row
        check_mlflow(MlflowClient(f"http://127.0.0.1:{port}"), Sweep.load(sweep.folder))


def check_mlflow(client: object, sweep: Sweep) -> None:
    """Every metric of every run exactly once, and every run's end."""
    parent = sweep.mlflow["parent_run_id"]
    for state in sweep_states(sweep):
        run_id = MirrorState.load(state.job.path).run_id
        run = client.get_run(run_id)  # type: ignore[attr-defined]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == ("FINISHED" if state.state == "finished" else "FAILED"), state
        for name, ours in history(state.job.path / "metrics.jsonl").items():
            theirs = client.get_metric_history(run_id, name)  # type: ignore[attr-defined]
            assert sorted((entry.step, entry.value) for entry in theirs) == ours, (state.job.name, name)
