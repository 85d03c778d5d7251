"""Every way in which SLURM can end a job, on a real SLURM, with the end that was promised (SLURM's own words, too)."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
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
        """What submitit starts, by the names of the jobs."""
        found = self.sweep.folder.glob("submissions/*/submitit/*_submitted.pkl")
        return {path.name: path.read_bytes() for path in found}

    def pid(self) -> int:
        return int((self.run / "pids").read_text().split()[-1])

    def assert_as_undisturbed(self) -> None:
        assert (self.run / "result").read_text() == str(undisturbed(STEPS))


@pytest.fixture
def small(cluster: Cluster, tmp_path: Path) -> Small:
    return Small(tmp_path)


def preempt(cluster: Cluster, job: str) -> None:
    """A job of a better partition takes whole nodes until `job` is out."""
    urgent = cluster.run("sbatch", "--parsable", "-p", "urgent", "-N3", "--exclusive", "--time=1", "--output=/dev/null",
                         "--wrap=sleep 2")  # fmt: skip
    wait_for(lambda: slurm.state_of(urgent) in ("RUNNING", "COMPLETED", "COMPLETING"), 60)


Event = Callable[[Cluster, Small], object]
GENTLE: dict[str, Event] = {
    "USR2 to the job": lambda cluster, small: cluster.run("scancel", "--signal=USR2", small.job),
    "USR2 to the supervisor": lambda cluster, small: cluster.run("scancel", "--batch", "--signal=USR2", small.job),
    "TERM to the job": lambda cluster, small: cluster.run("scancel", "--signal=TERM", small.job),
    "scontrol requeue": lambda cluster, small: cluster.run("scontrol", "requeue", small.job),
    "preemption": lambda cluster, small: preempt(cluster, small.job),
}
"""The task is warned: it saves where it is."""


@pytest.mark.parametrize("event", GENTLE)
def test_a_warned_job_saves_and_goes_on_under_the_same_number(event: str, cluster: Cluster, small: Small) -> None:
    small.submit()
    small.wait("running", step=7)
    job, pickles = small.job, small.pickles()
    GENTLE[event](cluster, small)
    small.wait("finished")
    assert small.job == job and small.pickles() == pickles != {}
    assert read_attempts(small.run).restarts == 1
    starts = [line for line in map(json.loads, (small.run / "attempts.jsonl").open()) if line["event"] == "start"]
    assert starts[1]["step"] >= 7  # nothing was lost: the last regular checkpoint was of step 5
    small.assert_as_undisturbed()
    wait_for(lambda: slurm.state_of(job) == "COMPLETED", 20)


def test_preemption_that_sends_no_signal_of_the_job(cluster: Cluster, small: Small) -> None:
    cluster.configure(warn_preempted=False)
    try:
        small.submit()
        small.wait("running", step=7)
        preempt(cluster, small.job)
        small.wait("finished")
    finally:
        cluster.configure(warn_preempted=True)
    assert read_attempts(small.run).restarts == 1
    small.assert_as_undisturbed()


def test_a_time_limit_is_an_interruption(small: Small) -> None:
    """More work than fits into 60 s, told about 20 s before (SLURM looks every half minute)."""
    small.submit(site={"timeout_min": 1, "signal_delay_s": 20}, seconds=2.0)
    small.wait("finished", 300)
    assert read_attempts(small.run).restarts >= 1
    small.assert_as_undisturbed()


def test_kill_9_resumes_from_the_last_checkpoint(cluster: Cluster, small: Small) -> None:
    small.submit()
    small.wait("running", step=12)
    job, pickles = small.job, small.pickles()
    os.kill(small.pid(), signal.SIGKILL)
    small.wait("finished")
    assert small.job == job and small.pickles() == pickles != {}
    assert read_attempts(small.run).restarts == 1
    small.assert_as_undisturbed()


def test_a_node_that_dies(cluster: Cluster, small: Small) -> None:
    small.submit(seconds=0.3)
    state, pickles = small.wait("running", step=7), small.pickles()
    try:
        cluster.stop_node(state.node)
        cluster.run("scontrol", "update", f"nodename={state.node}", "state=down", "reason=test")
        small.wait("finished")
    finally:
        cluster.start_node(state.node)
        # A node that came back by itself refuses to be resumed.
        cluster.run("scontrol", "update", f"nodename={state.node}", "state=resume", check=False)
    assert read_attempts(small.run).restarts == 1 and small.pickles() == pickles != {}
    small.assert_as_undisturbed()


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


def test_tasks_of_an_array_are_queued_again_under_their_own_numbers(cluster: Cluster, small: Small) -> None:
    small.submit(count=3, seconds=0.2)
    small.wait("running", step=7)
    names, pickles = [state.slurm for state in small.states], small.pickles()
    assert len({name.split("_")[0] for name in names}) == 1 and len(pickles) == 3
    cluster.run("scancel", "--signal=USR2", names[0])
    cluster.run("scontrol", "requeue", names[1])
    os.kill(int((small.states[2].job.path / "pids").read_text()), signal.SIGKILL)
    small.wait("finished")
    assert [state.slurm for state in small.states] == names and small.pickles() == pickles
    assert [read_attempts(state.job.path).restarts for state in small.states] == [1, 1, 1]
    assert {(state.job.path / "result").read_text() for state in small.states} == {str(undisturbed(STEPS))}


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
