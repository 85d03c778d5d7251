"""The folder of a sweep: its manifest, the frozen jobs of each submission, and the logs of the jobs.

runs/<experiment>/sweep-<hash8>/manifest.json          runs, submissions, job ids
                                submissions/<token>/   frozen configs, batch scripts
                                logs/                  one file per job; a restart appends to it
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pixelflow.errors import UserError
from pixelflow.files import locked, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class SweepJob:
    """A run of a sweep, as the manifest stores it.

    Args:
        name: The name of the run, unique in the sweep.
        folder: The absolute path of the run folder.
        job: The job (`job=NAME`) that the run executes.
        overrides: The overrides of the run, as typed.
        digest: The hash of the run's config.
        max_steps: The number of training steps; 0 for a job that does not train.
        makes_run: Whether the job trains in a run folder of its own; otherwise `folder` holds only its status.
        evaluations: The evaluations that the job makes, as paths in the run folder. Settings that differ only in how
            they are sampled and measured share one run and have an evaluation each.
    """

    name: str
    folder: str
    job: str
    overrides: list[str]
    digest: str
    max_steps: int
    makes_run: bool = True
    evaluations: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.folder)


@dataclass(frozen=True)
class Submission:
    """A submission of a sweep.

    Args:
        token: Its name.
        time: When it was made, in seconds since the epoch.
        user: Who made it.
        host: Where it was made.
        command: The command that made it.
        launcher: `"slurm"` or `"local"`.
        commit: The commit of the frozen code; empty for an installed package.
        snapshot: The folder of the frozen code; empty for an installed package.
        uncommitted: Whether the frozen code had uncommitted changes.
        jobs: The job id in SLURM of each run.
        then: The job id of each run's evaluation, where it is a separate job.
        table: The job id of the job that writes the table after all others.
    """

    token: str
    time: float
    user: str
    host: str
    command: str
    launcher: str
    commit: str
    snapshot: str
    uncommitted: bool
    jobs: dict[str, str] = field(default_factory=dict)
    then: dict[str, str] = field(default_factory=dict)
    table: str = ""

    @property
    def slurm_ids(self) -> list[str]:
        """The job ids in SLURM, one per array, without the job of the table."""
        return sorted({job.split("_")[0] for job in (*self.jobs.values(), *self.then.values())})


@dataclass
class Sweep:
    """A sweep and its manifest.

    Args:
        folder: The folder of the sweep.
        experiment: The name of the experiment.
        digest: The hash of the settings of all runs.
        jobs: The runs by name.
        submissions: All submissions, the newest last.
        axes: The config keys that are the columns of the table.
        paper: The published rows of the table.
        mlflow: `uri`, `experiment` and `parent_run_id` in MLflow; empty without MLflow.
    """

    folder: Path
    experiment: str
    digest: str
    jobs: dict[str, SweepJob] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    axes: list[str] = field(default_factory=list)
    paper: list[dict[str, Any]] = field(default_factory=list)
    mlflow: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def load(folder: Path) -> Sweep:
        """Reads the manifest in `folder`.

        Raises:
            UserError: The folder is not a sweep, or its manifest is damaged.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["jobs"] = {entry["name"]: entry for entry in content["jobs"]}
            return TypeAdapter(Sweep).validate_python({**content, "folder": folder})
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{folder} is not a sweep: it has no {MANIFEST}") from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path} is damaged: {key}={first['input']!r:.100}: {first['msg']}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error!r}") from None

    def save(self) -> None:
        """Writes the manifest."""
        content = {key: value for key, value in vars(self).items() if key != "folder"}
        content["jobs"] = [asdict(job) for job in self.jobs.values()]
        content["submissions"] = [asdict(submission) for submission in self.submissions]
        write_json(self.folder / MANIFEST, content)

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.folder / "logs"

    def submission_folder(self, token: str) -> Path:
        """Returns the folder of the frozen jobs of the submission `token`."""
        return self.folder / "submissions" / token


def sweep_digest(digests: Sequence[str]) -> str:
    """Returns a hash of the settings of all runs, independent of their order."""
    return hashlib.sha256(" ".join(sorted(set(digests))).encode()).hexdigest()[:8]


def find_sweep(path: str | None) -> Sweep:
    """Returns the sweep that `sweep=PATH` names.

    Args:
        path: The folder of a sweep, or the folder of an experiment, whose newest sweep is returned.

    Raises:
        UserError: There is no sweep.
    """
    if path is None:
        raise UserError("sweep=PATH is missing: the folder of a sweep, like runs/digits_kickoff/sweep-1a2b3c4d")
    if not isinstance(path, str):
        raise UserError(f"sweep={path!r} must be the path of a folder")
    folder = Path(path).absolute()
    if (folder / MANIFEST).exists():
        return Sweep.load(folder)
    sweeps = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda file: file.stat().st_mtime)
    if not sweeps:
        what = "is not a sweep and contains none" if folder.exists() else "does not exist"
        raise UserError(f"sweep={path} {what}; a sweep is a folder with a {MANIFEST}")
    return Sweep.load(sweeps[-1].parent)


def new_token() -> str:
    """Returns the name of a new submission: the time and four random digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


@contextmanager
def submitting(experiment: Path) -> Iterator[None]:
    """Lets one process at a time submit runs of the experiment in the folder `experiment`; others wait."""
    with locked(experiment / ".submit.lock", wait=True):
        yield
