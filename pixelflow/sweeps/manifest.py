"""The folder of a sweep: its manifest, the frozen jobs of each submission, and what SLURM wrote.

runs/<experiment>/sweep-<hash8>/manifest.json          what, when, by whom, job ids, run folders
                                submissions/<token>/   frozen configs, batch scripts
                                logs/                  one file a job and restart-proof
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pixelflow.files import locked, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class SweepJob:
    """name: of the run. folder: where it lies. job: what is done there. overrides: as typed. digest: of its config."""

    name: str
    folder: str
    job: str
    overrides: list[str]
    digest: str
    max_steps: int

    @property
    def path(self) -> Path:
        return Path(self.folder)


@dataclass(frozen=True)
class Submission:
    """token: its name. jobs: run -> job number in SLURM. then: the same of the evaluations, if they are jobs of their
    own. table: the job that ends the sweep."""

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


@dataclass
class Sweep:
    """digest: of the settings in it. axes, paper: for its table. mlflow: uri, experiment and parent run."""

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
        """Raises ValueError for a folder that is no sweep's."""
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{folder} is no sweep: it has no {MANIFEST}") from None
        except ValueError as error:
            raise ValueError(f"{folder / MANIFEST} is damaged: {error}") from None
        jobs = {entry["name"]: SweepJob(**entry) for entry in content.pop("jobs")}
        submissions = [Submission(**entry) for entry in content.pop("submissions")]
        return Sweep(folder=folder, jobs=jobs, submissions=submissions, **content)

    def save(self) -> None:
        content = {key: value for key, value in vars(self).items() if key != "folder"}
        content["jobs"] = [asdict(job) for job in self.jobs.values()]
        content["submissions"] = [asdict(submission) for submission in self.submissions]
        write_json(self.folder / MANIFEST, content)

    def submission(self, token: str) -> Submission | None:
        return next((entry for entry in self.submissions if entry.token == token), None)

    @property
    def users(self) -> set[str]:
        return {submission.user for submission in self.submissions}


def sweep_digest(digests: list[str]) -> str:
    """Of the settings, in whatever order."""
    return hashlib.sha256(" ".join(sorted(set(digests))).encode()).hexdigest()[:8]


def find_sweep(path: str | None) -> Sweep:
    """sweep=PATH: the folder of a sweep, or of an experiment, whose newest sweep is meant.

    Raises ValueError with what there is instead.
    """
    if path is None:
        raise ValueError("sweep=PATH is missing: the folder of a sweep, like runs/digits_kickoff/sweep-1a2b3c4d")
    folder = Path(path).absolute()
    if (folder / MANIFEST).exists():
        return Sweep.load(folder)
    sweeps = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda file: file.stat().st_mtime)
    if not sweeps:
        what = "is no sweep and holds none" if folder.is_dir() else "does not exist"
        raise ValueError(f"sweep={path} {what}; a sweep is a folder with a {MANIFEST}")
    return Sweep.load(sweeps[-1].parent)


def new_token() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


@contextmanager
def submitting(experiment: Path) -> Iterator[None]:
    """One submitter at a time in the folder of an experiment: the next one sees what this one promised."""
    with locked(experiment / ".submit.lock", wait=True):
        yield
