"""The folder of a sweep: its record in pieces, the frozen jobs of each submission, and the logs of the jobs.

runs/<experiment>/sweep-<hash8>/manifest.json                   experiment, what the table shows, MLflow
                                submissions/<token>/runs.json   the runs that this submission was the first to list
                                                    submission.json   who made it, when and how, and its SLURM jobs
                                                    ...               frozen configs, batch scripts
                                logs/                           one file per job; a restart appends to it

A submission writes files of its own, so that its cost does not grow with those before it. It counts once it has its
submission.json, which is written after runs.json and before the first job is given to SLURM; what a crash leaves before
that is ignored, and the same command submits the runs again.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.files import locked, make_folder, write_json
from pixelflow.reporting.presentation import Presentation
from pixelflow.sweeps.json_records import read_record

MANIFEST, SUBMISSION, RUNS = "manifest.json", "submission.json", "runs.json"
REMEDY = "move the folder of the sweep away, which holds no run, and repeat the sweep's command"


@dataclass(frozen=True)
class SweepJob:
    """A run of a sweep, as the record of its first submission stores it.

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
    """A submission of a sweep. The job id of each run is in the claim in its folder.

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
        slurm_ids: The job ids in SLURM, one per array, without the job of the table.
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
    slurm_ids: list[str] = field(default_factory=list)
    table: str = ""


@dataclass
class Sweep:
    """A sweep and its record.

    Args:
        folder: The folder of the sweep.
        experiment: The name of the experiment.
        digest: The hash of the settings of all runs.
        jobs: The runs by name.
        submissions: All submissions, the newest last.
        presentation: What the recipe states about the table and the chart.
        mlflow: `uri`, `experiment` and `parent_run_id` in MLflow; empty without MLflow.
        experiment_folder: The folder in which the runs lie, that of the experiment or of its `runs_of`; empty for the
            one that holds `folder`.
    """

    folder: Path
    experiment: str
    digest: str
    jobs: dict[str, SweepJob] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    presentation: Presentation = field(default_factory=Presentation)
    mlflow: dict[str, str] = field(default_factory=dict)
    experiment_folder: str = ""

    @staticmethod
    def load(folder: Path) -> Sweep:
        """Reads the record of the sweep in `folder`.

        Raises:
            UserError: The folder is not a sweep, a file is damaged, or an earlier version wrote it.
        """
        try:
            head = read_record(folder / MANIFEST, _Head, REMEDY)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{folder} is not a sweep: it has no {MANIFEST}") from None
        if head.jobs is not None:
            raise UserError(
                f"{folder} was written by an earlier version: remove this folder, which holds no run, and repeat the "
                "sweep's command, which continues its runs"
            )
        earlier = Presentation(swept=tuple(head.axes), paper=tuple(head.paper))
        sweep = Sweep(
            folder, head.experiment, head.digest, presentation=head.presentation or earlier, mlflow=head.mlflow,
            experiment_folder=head.experiment_folder,
        )  # fmt: skip
        paths = [path for path in folder.glob(f"submissions/*/{SUBMISSION}") if path.with_name(RUNS).exists()]
        found = [(read_record(path, Submission, REMEDY), path) for path in paths]
        for submission, path in sorted(found, key=lambda entry: entry[0].time):
            sweep.submissions.append(submission)
            sweep.jobs |= {job.name: job for job in read_record(path.with_name(RUNS), list[SweepJob], REMEDY)}
        return sweep

    def save(self) -> None:
        """Writes the manifest, without runs and submissions."""
        names = ("experiment", "digest", "mlflow", "experiment_folder")
        head = {name: getattr(self, name) for name in names} | {"presentation": asdict(self.presentation)}
        # The frozen code of a submission by an earlier version reads these two.
        head |= {"axes": self.presentation.axes or self.presentation.swept, "paper": self.presentation.paper}
        write_json(self.folder / MANIFEST, head)

    def add(self, submission: Submission, jobs: Iterable[SweepJob]) -> None:
        """Adds and writes a submission.

        Args:
            submission: The submission.
            jobs: Its runs; those that are new or changed are written.
        """
        fresh = [job for job in jobs if self.jobs.get(job.name) != job]
        write_json(self.submission_folder(submission.token) / RUNS, [asdict(job) for job in fresh])
        self.jobs |= {job.name: job for job in fresh}
        self.submissions.append(submission)
        self.save()
        self.update()

    def update(self, **changes: Any) -> None:
        """Changes and writes the newest submission."""
        submission = self.submissions[-1] = replace(self.submissions[-1], **changes)
        write_json(self.submission_folder(submission.token) / SUBMISSION, asdict(submission))

    @property
    def lock_file(self) -> Path:
        """The file that a submission locks. All sweeps of an experiment share it, since they share runs."""
        return (Path(self.experiment_folder) if self.experiment_folder else self.folder.parent) / ".submit.lock"

    @property
    def borrows(self) -> bool:
        """True if the runs belong to another experiment (`runs_of`)."""
        return bool(self.experiment_folder) and Path(self.experiment_folder).name != self.experiment

    @property
    def recipe_folder(self) -> Path:
        """The folder of the sweep's own experiment, which is beside that of the runs if they differ."""
        runs = self.lock_file.parent
        return runs.with_name(self.experiment) if self.borrows else runs

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.folder / "logs"

    def submission_folder(self, token: str) -> Path:
        """Returns the folder of the frozen jobs of the submission `token`."""
        return self.folder / "submissions" / token


@dataclass(frozen=True)
class _Head:
    """The content of manifest.json. Earlier versions wrote `axes` and `paper`, and before that the runs as well."""

    experiment: str
    digest: str
    mlflow: dict[str, str]
    presentation: Presentation | None = None
    experiment_folder: str = ""
    axes: list[str] = field(default_factory=list)
    paper: list[dict[str, Any]] = field(default_factory=list)
    jobs: Any = None


def launcher_lock(sweep: Path, token: str) -> Path:
    """Returns the file that the launcher of a submission locks while jobs of it may start on its machine.

    Args:
        sweep: The folder of the sweep.
        token: The name of the submission.
    """
    return sweep / "submissions" / token / ".launcher.lock"


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
def submitting(sweep: Sweep) -> Iterator[None]:
    """Lets one process at a time submit runs of the sweep's experiment; others wait."""
    make_folder(sweep.lock_file.parent)
    with locked(sweep.lock_file, wait=True):
        yield
