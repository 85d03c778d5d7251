"""The frozen jobs of a submission: one file per run, and one list per SLURM array or local batch.

A frozen job is data (a resolved config), so each start of a job is the same start, whatever caused it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.files import write_json
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
        return FrozenConfigs(**json.loads(path.read_text(encoding="utf-8")))


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
        content = json.loads(path.read_text(encoding="utf-8"))
        return Batch(
            token=content["token"], job=content["job"], site=Site(**content["site"]),
            program=Program.load(path.parent), jobs=[BatchJob(**entry) for entry in content["jobs"]],
        )  # fmt: skip

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
        content = {"token": token, "job": job, "site": asdict(site), "jobs": [asdict(entry) for entry in jobs]}
        write_json(path, content)
        return Batch(token, job, site, program, jobs)


def newest_batch(sweep: Sweep) -> Path:
    """Returns the file of the first batch of the newest submission."""
    return sweep.submission_folder(sweep.submissions[-1].token) / "batch_0.json"


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
