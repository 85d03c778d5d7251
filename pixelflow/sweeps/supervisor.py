"""A frozen job as submitit starts it: it runs the task, observes how the task ends, and queues it again.

It is a process beside the task, because a task that is killed cannot report its own death. The exit status of srun
alone is not enough: it is 0 when a step is aborted, and a killed rank hides the rank that failed. status.json records
how far the task came.

    finished     exit 0                                             COMPLETED in SLURM
    failed       an error                                           FAILED
    interrupted  the task saved and left with 75: queued again      PENDING, the same job id, one restart more
    killed       no record (kill -9, out of memory): queued again, as long as steps are made between deaths

A job that SLURM itself ends (cancelled, requeued, its node lost) is left to SLURM.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import ClassVar

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from pixelflow import terminal
from pixelflow.errors import UserError, WorkFailed
from pixelflow.runs.attempts import read_attempts, record
from pixelflow.runs.status import LOCK_PATIENCE, held, read_status, write_status
from pixelflow.signals import CONTINUE
from pixelflow.sweeps import slurm
from pixelflow.sweeps.batch import Batch, BatchJob
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.devices import VISIBLE
from pixelflow.sweeps.outcome import is_finished, outcome_of, record_end, record_failure, step_of
from pixelflow.sweeps.ranks import ranks, wait_for_all
from pixelflow.sweeps.site import Site

PR_SET_PDEATHSIG = 1
"""The request of prctl(2) for a signal at the end of the parent process; from linux/prctl.h."""


class Task:
    """The processes of the task, and the signals that are passed on to them.

    This replaces submitit's handlers, which would queue the job again before the task has saved.

    Args:
        forwarded: The signals to pass on. The others are ignored: SLURM sends them to the task as well.
    """

    def __init__(self, forwarded: tuple[signal.Signals, ...]) -> None:
        self.forwarded = forwarded
        self.stopped = False
        self.processes: list[subprocess.Popen[bytes]] = []
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number in self.forwarded:
            self.stopped = True
            for process in self.processes:
                process.send_signal(number)  # does nothing once it has ended

    def run(self, command: list[str], cwd: str, environments: Sequence[Mapping[str, str] | None] = (None,)) -> int:
        """Runs one process of the command in each environment.

        Returns:
            The exit status of the process that failed first, otherwise of the first one: 128 + N after signal N, and 75
            if a signal came before the start.
        """
        if self.stopped:
            return CONTINUE
        self.processes = []
        end = ending_with(os.getpid())
        for environment in environments:
            self.processes.append(subprocess.Popen(command, cwd=cwd, env=environment, preexec_fn=end))
        code = wait_for_all(self.processes)
        return code if code >= 0 else 128 - code


def ending_with(parent: int) -> Callable[[], None]:
    """Returns what a new process runs to receive SIGTERM when the process `parent` ends, even by kill -9.

    A task whose supervisor is gone would go on unseen, hold its run folder, and never be queued again.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    library = ctypes.CDLL(None)  # before the fork, after which a lock of another thread could block it

    def prepare() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the handler of this process would be called too late
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)

    return prepare


@dataclass(frozen=True)
class FrozenJob:
    """A job of a SLURM array, which submitit pickles. It names frozen files, so each of its starts is the same start.

    Args:
        batch: The file of the batch.
        index: The number of the job in it.
    """

    batch: str
    index: int

    forwarded: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGUSR2,)

    def __call__(self) -> str:
        """Runs the job until it is finished.

        Raises:
            WorkFailed: The task failed, or was started too often.
            SystemExit: The task was interrupted. Without an error submitit writes no result.
        """
        batch = Batch.load(Path(self.batch))
        job, task = batch.jobs[self.index], Task(self.forwarded)
        folder, site = job.path, batch.site
        claim, name = read_claim(folder), JobEnvironment().job_id
        # A sweep that waits for this job has claimed the run meanwhile.
        if claim is None or (claim.token != batch.token and name not in claim.after):
            return say(f"{folder} belongs to another submission now: nothing to do")
        if is_finished(folder, batch.job, job.evaluations):
            return say(f"{folder} is finished already")
        if not wait_for_lock(folder, task):
            raise WorkFailed(say(f"{folder} is in use by another process"))
        if reason := limit_reached(folder, batch.token, site, max(1, site.max_restarts)):
            give_up(folder, reason)
        node = os.environ.get("SLURMD_NODENAME", "")
        while True:
            record(folder, "start", token=batch.token, step=step_of(folder), job=name, node=node)
            write_status(folder, "starting")
            code = self.run(task, batch, job)
            outcome = outcome_of(folder, batch.job, job.evaluations, code)
            record_end(folder, code, outcome)
            say(f"{outcome} (exit status {code})")
            if outcome == "finished":
                return outcome
            if outcome == "failed":
                if read_status(folder).state != "failed":  # a crash outside of Python, or before the task's own record
                    write_status(folder, "failed", f"its process ended with status {code} and no message: see its log")
                raise WorkFailed(terminal.visible(read_status(folder).message))
            if outcome == "killed" and task.stopped:
                write_status(folder, "interrupted", "ended by a signal before it could save")
            if not self.is_left_to_us(name, outcome, task):
                raise SystemExit(CONTINUE)
            if reason := limit_reached(folder, batch.token, site, site.max_restarts):
                give_up(folder, reason)
            self.start_again(name, outcome, site)

    def checkpoint(self) -> DelayedSubmission:
        """Returns the same job: submitit's handler, where it is called after all, stores it in place of this one."""
        return DelayedSubmission(self)

    def run(self, task: Task, batch: Batch, job: BatchJob) -> int:
        """Runs the frozen task with srun. Returns its exit status."""
        command = batch.program.command(batch.program.entry, job.file)
        return task.run(["srun", *batch.site.srun_options(), *command], batch.program.cwd)

    def is_left_to_us(self, name: str, outcome: str, task: Task) -> bool:
        """Returns False if SLURM has cancelled the job or queued it again already."""
        return slurm.state_of(name) in ("RUNNING", "UNKNOWN")

    def start_again(self, name: str, outcome: str, site: Site) -> None:
        """Queues the job again and ends this process. To wait for SLURM to end it would hold the nodes for KillWait."""
        if not site.requeue:
            say("site.requeue=false: repeat the sweep's command to continue from the last checkpoint")
            raise SystemExit(CONTINUE)
        try:
            slurm.requeue(name)
        except (UserError, WorkFailed) as error:
            say(f"{outcome}, and not queued again ({error}): repeat the sweep's command to continue")
        raise SystemExit(CONTINUE)


@dataclass(frozen=True)
class LocalJob(FrozenJob):
    """A job of this machine, without SLURM: the launcher ends it with SIGTERM, and it starts itself again.

    Args:
        log: The file of its output.
        gpus: The value of CUDA_VISIBLE_DEVICES; None for no such variable.
    """

    log: str
    gpus: str | None

    forwarded: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGUSR2, signal.SIGTERM)

    def __call__(self) -> str:
        """Runs the job until it is finished; see `FrozenJob`."""
        with open(self.log, "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        return super().__call__()

    def run(self, task: Task, batch: Batch, job: BatchJob) -> int:
        """Runs the processes of the frozen task as children of this process. Returns their exit status."""
        environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
        if self.gpus is not None:
            environment[VISIBLE] = self.gpus
        command = batch.program.command(batch.program.entry, job.file)
        return task.run(command, batch.program.cwd, ranks(environment, batch.site.tasks))

    def is_left_to_us(self, name: str, outcome: str, task: Task) -> bool:
        """Returns whether the task was killed by something else than the launcher."""
        return outcome == "killed" and not task.stopped

    def start_again(self, name: str, outcome: str, site: Site) -> None:
        """Does nothing: the job is started again by the process in which it is."""


def limit_reached(folder: Path, token: str, site: Site, max_restarts: int) -> str:
    """Returns why the run is not started again; empty where it may start."""
    attempts = read_attempts(folder, token)
    if attempts.stalls >= site.max_stalls:
        return f"killed {attempts.stalls} times in a row without a step of progress"
    if attempts.restarts >= max_restarts:
        return f"started again {attempts.restarts} times, the limit of site.max_restarts"
    return ""


def give_up(folder: Path, message: str) -> None:
    """Records the run as failed.

    Raises:
        WorkFailed: Always.
    """
    record_failure(folder, message)
    raise WorkFailed(say(message))


def wait_for_lock(folder: Path, task: Task) -> bool:
    """Waits until no process holds the run folder. Returns False where one still does after LOCK_PATIENCE seconds.

    A signal to the task ends the waiting, too: the task then does not start.
    """
    start, waiting = time.monotonic(), False
    while True:
        with held(folder) as ours:
            if ours or task.stopped:
                return True
        if time.monotonic() > start + LOCK_PATIENCE:
            return False
        if not waiting:
            say(f"{folder} is in use by another process: waiting until it has ended")
        waiting = True
        time.sleep(1)


def say(message: str) -> str:
    """Writes a line with time and node to the job's log. Returns the message."""
    node = os.environ.get("SLURMD_NODENAME", "")
    terminal.say(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {node} {message}", stream=sys.stderr)
    return message
