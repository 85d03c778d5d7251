"""SLURM arrays: the frozen batches of a submission, and the order in which its jobs depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pixelflow.sweeps.batch import Batch
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.executors import slurm_executor, submit
from pixelflow.sweeps.final_job import FinalJob
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.plan import Planned
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.supervisor import FrozenJob

PIPELINE, TRAIN = "pipeline", "train"
"""The job that trains and evaluates, and its first half, which can be a separate SLURM job."""


@dataclass(frozen=True)
class Part:
    """Runs that fit into one array.

    Args:
        entries: The runs.
        batches: The files of their batches, with the contents. With `site.evaluation` there is a second one, each of
            whose tasks follows the same task of the first.
    """

    entries: Sequence[Planned]
    batches: Sequence[tuple[Path, Batch]]


def freeze(folder: Path, due: Sequence[Planned], site: Site, program: Program, *, size: int, split: bool) -> list[Part]:
    """Freezes runs, at most `size` in one part.

    Args:
        folder: The folder of the submission, which is named by its token.
        due: The runs.
        site: The queue settings.
        program: What runs the jobs.
        size: The largest number of runs in a part.
        split: Whether `site.evaluation` applies.
    """
    job = due[0].job.job
    steps = [(job, site)]
    if split and job == PIPELINE and site.evaluation is not None:
        steps = [(TRAIN, site), (job, site.for_evaluation())]
    parts: list[Part] = []
    for start in range(0, len(due), size):
        entries = due[start : start + size]
        paths = [folder / f"batch_{len(parts) * len(steps) + number}.json" for number in range(len(steps))]
        batches = [
            (path, Batch.freeze(path, entries, token=folder.name, job=name, site=settings, program=program))
            for path, (name, settings) in zip(paths, steps, strict=True)
        ]
        parts.append(Part(entries, batches))
    return parts


def submit_part(sweep: Sweep, part: Part) -> None:
    """Submits the arrays of a part. The manifest and the claims receive the job ids.

    `sweep.submissions[-1]` is the submission.
    """
    ids: list[list[str]] = []
    for path, batch in part.batches:
        calls = [FrozenJob(str(path), index) for index in range(len(batch.jobs))]
        executor = slurm_executor(
            path.parent, batch.site, batch.program, name=sweep.experiment,
            log=sweep.logs / ("%A_%a.log" if len(calls) > 1 else "%j.log"),
            dependency=f"aftercorr:{ids[0][0].split('_')[0]}" if ids else None,
        )  # fmt: skip
        ids.append([job.job_id for job in submit(executor, calls)])
        _remember(sweep, part.entries, ids)


def submit_table(sweep: Sweep, site: Site, program: Program) -> None:
    """Submits the job that ends the sweep: after all others, whatever their ends, it writes the table."""
    known = sweep.submissions[-1]
    executor = slurm_executor(
        sweep.submission_folder(known.token), site.for_table(), program, name=sweep.experiment,
        log=sweep.logs / "table_%j.log", dependency=f"afterany:{':'.join(known.slurm_ids)}",
    )  # fmt: skip
    (job,) = submit(executor, [FinalJob(str(sweep.folder))])
    sweep.submissions[-1] = replace(known, table=job.job_id)
    sweep.save()


def _remember(sweep: Sweep, entries: Sequence[Planned], ids: Sequence[Sequence[str]]) -> None:
    names = [entry.job.name for entry in entries]
    known = sweep.submissions[-1]
    first, later = (dict(zip(names, found, strict=True)) for found in (ids[0], ids[-1]))
    later = later if len(ids) > 1 else {}
    sweep.submissions[-1] = replace(known, jobs=known.jobs | first, then=known.then | later)
    sweep.save()
    for entry in entries:
        claim = read_claim(entry.job.path)
        assert claim is not None
        name = entry.job.name
        replace(claim, job=first[name], then=later.get(name, "")).save(entry.job.path)
