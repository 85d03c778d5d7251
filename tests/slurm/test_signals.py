"""Every way in which SLURM can end a job, on a real SLURM, with the end that was promised (SLURM's own words, too)."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pixelflow.runs.attempts import read_attempts
from pixelflow.runs.snapshot import Snapshot
from pixelflow.sweeps import slurm
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.plan import plan
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import RunState, sweep_states
from pixelflow.sweeps.submission import submit
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.task import undisturbed

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
SITE = {"partition": "main", "timeout_min": 5, "signal_delay_s": 60, "cpus_per_task": 1}


class Small:
    """A sweep of small tasks in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        code = folder / "code" / "pixelflow"
        code.mkdir(parents=True)
        (code / "__init__.py").write_text("")
        for name in ("runs", "sweeps", "signals.py", "files.py", "errors.py", "limits.py", "terminal.py"):
            (code / name).symlink_to(ROOT / "pixelflow" / name)
        (folder / "code" / "small_task.py").symlink_to(ROOT / "tests" / "slurm" / "task.py")
        self.sweep = Sweep(folder=folder / "runs" / "sweep", experiment="small", digest="0")
        self.submitted: dict[str, bytes] = {}

    def submit(self, count: int = 1, site: dict[str, Any] | None = None, **settings: Any) -> Small:
        entries = []
        for number in range(count):
            folder = self.folder / "runs" / f"run-{number}"
            config = {"steps": STEPS, "seconds": 0.1, "save_every": 5, "job": {"name": "train"}, **settings}
            entries.append((SweepJob(folder.name, str(folder), "train", [], str(number), STEPS), config))
        where = Site(**SITE | (site or {}))
        program = Program(
            entry="small_task", snapshot=Snapshot(str(self.folder / "code"), "", ""), user_paths=[],
            python=sys.executable, cwd=str(self.folder),
        )  # fmt: skip
        submit(self.sweep, plan(entries, where), where, program, launcher="slurm")
        self.submitted = self.pickles()
        return self

    @property
    def states(self) -> list[RunState]:
        return sweep_states(self.sweep)

    @property
    def job(self) -> str:
        return self.states[0].slurm

    @property
    def run(self) -> Path:
        return self.states[0].job.path

    def wait(self, state: str, seconds: float = 90, *, step: int = 0) -> RunState:
        def there() -> bool:
            return all(entry.state == state and entry.step >= step for entry in self.states)

        try:
            wait_for(there, seconds)
        except TimeoutError:
            logs = [path.read_text() for path in (self.sweep.folder / "logs").iterdir()]
            raise AssertionError(f"not {state}: {self.states} {logs}") from None
        return self.states[0]

    def pickles(self) -> dict[str, bytes]:
        """Returns what submitit starts, by the ids of the jobs."""
        found = self.sweep.folder.glob("submissions/*/submitit/*_submitted.pkl")
        return {path.name: path.read_bytes() for path in found}

    def assert_as_undisturbed(self, *, restarts: int | None = None) -> None:
        """The results of all runs, the number of their restarts, and what submitit has started."""
        for state in self.states:
            assert (state.job.path / "result").read_text() == str(undisturbed(STEPS))
            assert restarts is None or read_attempts(state.job.path).restarts == restarts, state
        assert self.pickles() == self.submitted != {}


@pytest.fixture
def small(cluster: Cluster, tmp_path: Path) -> Small:
    return Small(tmp_path)


def test_every_task_of_an_array_goes_on_under_its_own_number(cluster: Cluster, small: Small) -> None:
    """All but the last, which is killed, are warned: they save where they are. Step 5 was saved anyway."""
    small.submit(count=5, seconds=0.4)
    small.wait("running", step=7)
    names = [state.slurm for state in small.states]
    assert len({name.split("_")[0] for name in names}) == 1
    cluster.run("scancel", "--signal=USR2", names[0])
    cluster.run("scancel", "--batch", "--signal=USR2", names[1])  # to the supervisor alone
    cluster.run("scancel", "--signal=TERM", names[2])
    cluster.run("scontrol", "requeue", names[3])
    os.kill(int((small.states[4].job.path / "pids").read_text()), signal.SIGKILL)
    small.wait("finished")
    assert [state.slurm for state in small.states] == names
    small.assert_as_undisturbed(restarts=1)
    assert all(started_at(state.job.path)[1] >= 7 for state in small.states[:4])
    wait_for(lambda: {slurm.state_of(name) for name in names} == {"COMPLETED"}, 20)


def started_at(run: Path) -> list[int]:
    """The step at each start of a run."""
    return [line["step"] for line in map(json.loads, (run / "attempts.jsonl").open()) if line["event"] == "start"]


@pytest.mark.parametrize("announced", [True, False])
def test_preemption(announced: bool, cluster: Cluster, small: Small) -> None:
    cluster.configure(warn_preempted=announced)
    try:
        small.submit(seconds=0.2)
        small.wait("running", step=7)
        cluster.preempt()
        small.wait("finished")
    finally:
        cluster.configure(warn_preempted=True)
    assert started_at(small.run)[1] >= 7
    small.assert_as_undisturbed(restarts=1)


def test_a_time_limit_is_an_interruption(small: Small) -> None:
    """SLURM sends the signal after 10 s of the minute or up to 30 s later: it looks every half minute."""
    small.submit(site={"timeout_min": 1, "signal_delay_s": 50}, seconds=1.3)
    small.wait("finished", 300)
    assert read_attempts(small.run).restarts >= 1
    small.assert_as_undisturbed()


def test_a_node_that_dies(cluster: Cluster, small: Small) -> None:
    small.submit(seconds=0.3)
    state = small.wait("running", step=7)
    cluster.lose_node(state.node)
    try:
        small.wait("finished")
    finally:
        cluster.return_node(state.node)
    small.assert_as_undisturbed(restarts=1)


def test_a_cancelled_job_saves_and_stays_cancelled(cluster: Cluster, small: Small) -> None:
    small.submit()
    small.wait("running", step=7)
    job = small.job
    slurm.cancel([job])
    small.wait("cancelled")
    time.sleep(3)
    assert slurm.state_of(job) == "CANCELLED" and small.states[0].step >= 7
    small.submit()  # the same again goes on from there
    small.wait("finished")
    assert small.job != job
    small.assert_as_undisturbed()


def test_a_failed_job_is_failed_everywhere_and_not_queued_again(cluster: Cluster, small: Small) -> None:
    small.submit(fails_at=8)
    state = small.wait("failed")
    wait_for(lambda: slurm.state_of(small.job) == "FAILED", 20)
    assert "ExitCode=1:0" in cluster.run("scontrol", "show", "job", small.job)
    assert state.message == "the loss is not finite" and state.restarts == 0 and state.failures == 1
    (log,) = (small.sweep.folder / "logs").iterdir()
    assert "ValueError: the loss is not finite" in log.read_text()


def test_deaths_without_progress_have_an_end(small: Small) -> None:
    """It dies at step 8, saved at 5: from the second death on no step is new."""
    small.submit(dies_at=8, site={"max_stalls": 2})
    state = small.wait("failed")
    wait_for(lambda: slurm.state_of(small.job) == "FAILED", 20)
    assert state.message == "killed 2 times in a row without a step of progress"
    assert 1 <= state.restarts <= 2


def test_an_array_runs_every_task_and_a_second_submission_none(small: Small) -> None:
    small.submit(count=5, site={"array_parallelism": 3, "max_array_size": 3})
    names = {state.slurm.split("_")[0] for state in small.states}
    assert len(names) == 2  # split at the limit
    before = len(small.sweep.submissions)
    entries = [(state.job, {"job": {"name": "train"}}) for state in small.states]
    assert not any(entry.due for entry in plan(entries, Site()))
    small.wait("finished")
    assert len(small.sweep.submissions) == before


def test_blanks_inherited_variables_and_an_environment_that_is_not_passed_on(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted from inside a task of another array, as far as the environment tells."""
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_NTASKS", "RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "7")
    small = Small(tmp_path / "a folder's name")
    small.submit(site={"additional_parameters": {"comment": "two words", "exclusive": True, "export": "NONE"}})
    small.wait("finished")
    described = cluster.run("scontrol", "show", "job", small.job)
    assert "Comment=two words" in described and "OverSubscribe=NO" in described
    assert [path.name for path in small.sweep.logs.iterdir()] == [f"{small.job}.log"]
    small.assert_as_undisturbed()


def test_a_job_whose_run_was_given_to_another_submission_does_nothing(cluster: Cluster, small: Small) -> None:
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        small.submit()
        first = small.job
        (small.run / "launch.json").unlink()
        small.submit()
        second = small.job
    finally:
        cluster.run("scontrol", "update", "partitionname=main", "state=up")
    small.wait("finished")
    wait_for(lambda: slurm.state_of(first) == slurm.state_of(second) == "COMPLETED", 30)
    assert len((small.run / "pids").read_text().split()) == 1
