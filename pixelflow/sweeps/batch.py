"""The frozen jobs of a submission: one file per run, and one list per SLURM array or local batch.

A frozen job is data (a resolved config), so each start of a job is the same start, whatever caused it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.files import write_json
from pixelflow.sweeps.json_records import read_record
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.plan import Planned
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site

RESULT = "result.json"
"""The file in a run folder that holds what the job returned."""


@dataclass(frozen=True)
class FrozenConfigs:
    """The configs that a job executes.

    Args:
        configs: The resolved configs, which are executed one after the other.
        overrides: The overrides, as typed.
        folder: The run folder, where the job's status is recorded.
    """

    configs: list[Mapping[str, Any]]
    overrides: list[str]
    folder: str

    @staticmethod
    def load(path: Path) -> FrozenConfigs:
        """Reads the configs of a frozen job."""
        return read_record(path, FrozenConfigs)


@dataclass(frozen=True)
class BatchJob:
    """A job of a batch.

    Args:
        name: The name of the run.
        file: The file of its frozen job.
        folder: The run folder.
        evaluations: The evaluations that the job makes, as paths in the run folder.
    """

    name: str
    file: str
    folder: str
    evaluations: list[str]

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.folder)


@dataclass(frozen=True)
class Batch:
    """Jobs that are submitted together, as one SLURM array or one local batch.

    Args:
        token: The submission.
        job: The job (`job=NAME`) that is executed; with a separate evaluation it is `train` first.
        site: The queue settings.
        program: What runs the jobs.
        jobs: The jobs; a task of an array finds its own by its index.
    """

    token: str
    job: str
    site: Site
    program: Program
    jobs: list[BatchJob]

    @staticmethod
    def load(path: Path) -> Batch:
        """Reads a batch and the program beside it."""
        stored = read_record(path, _Stored)
        return Batch(stored.token, stored.job, stored.site, Program.load(path.parent), stored.jobs)

    @staticmethod
    def freeze(path: Path, entries: Sequence[Planned], *, token: str, job: str, site: Site, program: Program) -> Batch:
        """Writes the frozen jobs of `entries`, and the batch that lists them to `path`."""
        jobs = []
        for entry in entries:
            file = path.parent / path.stem / f"{entry.job.name}.json"
            configs = [_with_job(config, job) for config in entry.configs]
            evaluations = entry.job.evaluations if job == entry.job.job else []
            write_json(file, asdict(FrozenConfigs(configs, entry.job.overrides, entry.job.folder)))
            jobs.append(BatchJob(entry.job.name, str(file), entry.job.folder, evaluations))
        write_json(path, asdict(_Stored(token, job, site, jobs)))
        return Batch(token, job, site, program, jobs)


@dataclass(frozen=True)
class _Stored:
    """A batch as its file holds it; all batches of a submission share the file of the program."""

    token: str
    job: str
    site: Site
    jobs: list[BatchJob]


def newest_batch(sweep: Sweep) -> Path:
    """Returns the file of the first batch of the newest submission that has one.

    Raises:
        UserError: There is none.
    """
    files = [sweep.submission_folder(submission.token) / "batch_0.json" for submission in sweep.submissions]
    found = [file for file in files if file.exists()]
    if not found:
        raise UserError(f"{sweep.folder} has no frozen jobs: repeat the sweep's own command")
    return found[-1]


def frozen_jobs(sweep: Sweep, names: Sequence[str]) -> list[tuple[SweepJob, Mapping[str, Any]]]:
    """Returns the named runs with the configs of their newest submission.

    Raises:
        UserError: A run was never submitted.
    """
    found: list[tuple[SweepJob, Mapping[str, Any]]] = []
    for name in names:
        files = sorted(sweep.folder.glob(f"submissions/*/batch_*/{name}.json"))
        if not files:
            raise UserError(f"{sweep.folder} has no frozen config of {name}: repeat the sweep's own command instead")
        job = sweep.jobs[name]
        found += [(job, _with_job(config, job.job)) for config in FrozenConfigs.load(files[-1]).configs]
    return found


def _with_job(config: Mapping[str, Any], job: str) -> Mapping[str, Any]:
    return {**config, "job": {**config["job"], "name": job}}
