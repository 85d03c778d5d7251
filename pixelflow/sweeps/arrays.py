"""SLURM arrays: the frozen batches of a submission, and the order in which its jobs depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pixelflow.sweeps.batch import Batch
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.executors import slurm_executor, submit
from pixelflow.sweeps.final_job import FinalJob
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.plan import Planned, steps_of
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.supervisor import FrozenJob


def freeze(
    folder: Path, due: Sequence[Planned], site: Site, program: Program, *, size: int, split: bool
) -> list[list[Path]]:
    """Freezes runs in parts that fit into one array each.

    Args:
        folder: The folder of the submission, which is named by its token.
        due: The runs.
        site: The queue settings.
        program: What runs the jobs.
        size: The largest number of runs in a part.
        split: Whether `site.evaluation` applies.

    Returns:
        The files of the batches of each part. With `site.evaluation` there is a second one, each of whose tasks follows
        the same task of the first.
    """
    steps = steps_of(due[0].job.job, site, split)
    free = [entry for entry in due if not entry.after]
    groups = [free[start : start + size] for start in range(0, len(free), size)]
    groups += [[entry] for entry in due if entry.after]  # they wait for different jobs
    parts: list[list[Path]] = []
    for group in groups:
        parts.append([])
        for number, (job, settings) in enumerate(steps, (len(parts) - 1) * len(steps)):
            path = folder / f"batch_{number}.json"
            Batch.freeze(path, group, token=folder.name, job=job, site=settings, program=program)
            parts[-1].append(path)
    return parts


def submit_part(sweep: Sweep, part: Sequence[Path], previous: str | None) -> str:
    """Submits the arrays of a part. The claims and the newest submission receive the job ids.

    Args:
        sweep: The sweep.
        part: The files of the batches.
        previous: The first array of the part before this one. SLURM limits the jobs at once of one array only, so that
            with `site.array_parallelism` this part begins when that array is over.

    Returns:
        The id of the first array of this part.
    """
    ids: list[dict[str, str]] = []
    for path in part:
        batch = Batch.load(path)
        after = f"afterany:{previous}" if previous and batch.site.array_parallelism else None
        if waits := [name for job in batch.jobs if (claim := read_claim(job.path)) for name in claim.after]:
            after = f"afterany:{':'.join(waits)}"
        if ids:
            after = f"aftercorr:{_array(ids[0][batch.jobs[0].name])}"
        calls = [FrozenJob(str(path), index) for index in range(len(batch.jobs))]
        executor = slurm_executor(
            path.parent, batch.site, batch.program, name=sweep.experiment,
            log=sweep.logs / ("%A_%a.log" if len(calls) > 1 else "%j.log"), dependency=after,
        )  # fmt: skip
        submitted = submit(executor, calls)
        ids.append({job.name: entry.job_id for job, entry in zip(batch.jobs, submitted, strict=True)})
        sweep.update(slurm_ids=[*sweep.submissions[-1].slurm_ids, _array(submitted[0].job_id)])
    first, then = ids[0], ids[1] if len(ids) > 1 else {}
    for job in batch.jobs:
        claim = read_claim(job.path)
        assert claim is not None
        replace(claim, job=first[job.name], then=then.get(job.name, "")).save(job.path)
    return _array(first[batch.jobs[0].name])


def _array(job: str) -> str:
    return job.split("_")[0]


def submit_table(sweep: Sweep, site: Site, program: Program) -> None:
    """Submits the job that ends the sweep: after all others, whatever their ends, it writes the table."""
    known = sweep.submissions[-1]
    executor = slurm_executor(
        sweep.submission_folder(known.token), site.for_table(), program, name=sweep.experiment,
        log=sweep.logs / "table_%j.log", dependency=f"afterany:{':'.join(known.slurm_ids)}",
    )  # fmt: skip
    (job,) = submit(executor, [FinalJob(str(sweep.folder))])
    sweep.update(table=job.job_id)
