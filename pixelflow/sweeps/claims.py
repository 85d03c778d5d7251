"""`launch.json` in a run folder: the claim of the submission that the run belongs to.

Two submitters can want the same run. The claim decides: a job whose submission no longer holds the claim does nothing.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from pixelflow.files import write_json
from pixelflow.sweeps.json_records import read_record

CLAIM_NAME = "launch.json"


@dataclass(frozen=True)
class Launcher:
    """The process that runs the jobs of a local sweep.

    Args:
        host: The name of its machine.
        pid: Its number, which the system gives to another process once this one has ended.
        started: When it was started, in seconds since the epoch, which tells the two apart.
    """

    host: str
    pid: int
    started: float

    @staticmethod
    def this_process() -> Launcher:
        """Returns the process that calls this."""
        return Launcher(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @property
    def elsewhere(self) -> bool:
        """Whether it is a process of another machine, of which nothing is known here."""
        return self.host != socket.gethostname()

    @property
    def process(self) -> psutil.Process | None:
        """The process on this machine; None once it has ended."""
        try:
            process = psutil.Process(self.pid)
            # The clock may have been set meanwhile; a number is not reused within seconds.
            same = abs(process.create_time() - self.started) < 5 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same and not self.elsewhere else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Claim:
    """The assignment of a run to one submission.

    Args:
        sweep: The folder of the sweep.
        token: The name of the submission.
        user: The user whose jobs these are.
        time: When the claim was made, in seconds since the epoch.
        job: The job id in SLURM, or `""` for a job of this machine or until it is known.
        then: The job id of the evaluation, if it is a job after `job`.
        after: The job ids of another sweep that was at work on the run when the claim was made. They continue, and
            `job` begins after them.
        launcher: The process that runs the job without SLURM.
        tags: The config values that differ between the runs of the sweep; they become tags in MLflow.
    """

    sweep: str
    token: str
    user: str
    time: float
    job: str = ""
    then: str = ""
    after: list[str] = field(default_factory=list)
    launcher: Launcher | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes the claim to the run folder `folder`."""
        write_json(folder / CLAIM_NAME, asdict(self))

    @property
    def is_new(self) -> bool:
        """Whether SLURM has not numbered the job; it never will where the submission is no longer under way."""
        return not self.own_jobs and self.launcher is None

    @property
    def slurm_jobs(self) -> list[str]:
        """The ids of all jobs in SLURM that work on the run; empty for a run without SLURM."""
        return [*self.after, *self.own_jobs]

    @property
    def own_jobs(self) -> list[str]:
        """The ids of the submission's own jobs in SLURM."""
        return [job for job in (self.job, self.then) if job[:1].isdigit()]  # earlier versions wrote "pid 12" as well


def read_claim(folder: Path) -> Claim | None:
    """Returns the claim in the run folder `folder`; None without one.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return read_record(folder / CLAIM_NAME, Claim, "delete it, and repeat the sweep's command")
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove_claim(folder: Path) -> None:
    """Removes the claim from the run folder `folder`, if there is one."""
    (folder / CLAIM_NAME).unlink(missing_ok=True)
