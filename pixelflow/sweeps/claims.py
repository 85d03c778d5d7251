"""`launch.json` in a run folder: the claim of the submission that the run belongs to.

Two submitters can want the same run. The claim decides: a job whose submission no longer holds the claim does nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pixelflow.errors import UserError
from pixelflow.files import write_json

CLAIM_NAME = "launch.json"
_LOCAL = "pid "


@dataclass(frozen=True)
class Claim:
    """The assignment of a run to one submission.

    Args:
        sweep: The folder of the sweep.
        token: The name of the submission.
        user: The user whose jobs these are.
        time: When the claim was made, in seconds since the epoch.
        job: The job id in SLURM, `"pid N"` for a process of this machine, or `""` until it is known.
        then: The job id of the evaluation, if it is a job after `job`.
        tags: The config values that differ between the runs of the sweep; they become tags in MLflow.
    """

    sweep: str
    token: str
    user: str
    time: float
    job: str = ""
    then: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes the claim to the run folder `folder`."""
        write_json(folder / CLAIM_NAME, asdict(self))

    @property
    def slurm_jobs(self) -> list[str]:
        """The ids of the claim's jobs in SLURM; empty for a run of this machine."""
        return [job for job in (self.job, self.then) if job and not job.startswith(_LOCAL)]

    @property
    def local_process(self) -> int | None:
        """The process id of the launcher on this machine that runs the claim's job; None for a SLURM job."""
        return int(self.job.removeprefix(_LOCAL)) if self.job.startswith(_LOCAL) else None


def local_job(process: int) -> str:
    """Returns the job id of the runs that the process `process` of this machine executes."""
    return f"{_LOCAL}{process}"


def read_claim(folder: Path) -> Claim | None:
    """Returns the claim in the run folder `folder`; None without one.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / CLAIM_NAME
    try:
        return Claim(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, and repeat the sweep's command") from None


def remove_claim(folder: Path) -> None:
    """Removes the claim from the run folder `folder`, if there is one."""
    (folder / CLAIM_NAME).unlink(missing_ok=True)
