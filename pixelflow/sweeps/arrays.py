"""SLURM arrays: the batch scripts of a submission, and the order in which its jobs depend on each other."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pixelflow.files import write_text
from pixelflow.sweeps import slurm
from pixelflow.sweeps.batch import Batch
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.plan import Planned
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site

PIPELINE, TRAIN = "pipeline", "train"
"""The job that trains and evaluates, and its first half, which can be a separate SLURM job."""
SUPERVISOR, FINAL_JOB = "pixelflow.sweeps.supervisor", "pixelflow.sweeps.final_job"
TABLE_MINUTES = 30


def parts(due: Sequence[Planned], site: Site) -> Iterator[Sequence[Planned]]:
    """Yields the runs in parts that fit into one array each, by the limits of the site and of SLURM."""
    size = min(site.max_array_size, slurm.array_limit() or site.max_array_size)
    for start in range(0, len(due), size):
        yield due[start : start + size]


def submit_part(sweep: Sweep, part: Sequence[Planned], site: Site, program: Program) -> None:
    """Submits one array, and with `site.evaluation` a second one, whose tasks each follow the same task of the first.

    The manifest and the claims receive the job ids. `sweep.submissions[-1]` is the submission.
    """
    token = sweep.submissions[-1].token
    folder = sweep.submission_folder(token)
    number = len(list(folder.glob("batch_*.json")))
    job = part[0].job.job
    split = job == PIPELINE and site.evaluation is not None
    path = folder / f"batch_{number}.json"
    first = Batch.freeze(path, part, token=token, job=TRAIN if split else job, site=site, program=program)
    ids = _sbatch(sweep, path, first)
    _remember(sweep, part, ids, [])
    if split:
        small = site.of_evaluation()
        path = folder / f"batch_{number + 1}.json"
        second = Batch.freeze(path, part, token=token, job=job, site=small, program=program)
        _remember(sweep, part, ids, _sbatch(sweep, path, second, f"aftercorr:{ids[0].split('_')[0]}"))


def submit_table(sweep: Sweep, site: Site, program: Program) -> None:
    """Submits the job that ends the sweep: after all others, whatever their ends, it writes the table."""
    known = sweep.submissions[-1]
    small = replace(
        site, nodes=1, gpus_per_node=0, tasks_per_node=1, gres=None, constraint=None, timeout_min=TABLE_MINUTES,
        signal_delay_s=0,
    )  # fmt: skip
    path = sweep.submission_folder(known.token) / "table.sh"
    write_text(path, _script(sweep, small, program, "table_%j.log", [], program.command(FINAL_JOB, sweep.folder)))
    job = slurm.submit(path, dependency=f"afterany:{':'.join(known.slurm_ids)}")
    sweep.submissions[-1] = replace(known, table=job)
    sweep.save()


def _sbatch(sweep: Sweep, path: Path, batch: Batch, dependency: str | None = None) -> list[str]:
    """Submits the batch in the file `path` and returns the job ids of its runs."""
    count, parallel = len(batch.jobs), batch.site.array_parallelism
    limit = f"%{parallel}" if parallel else ""
    log, array = ("%A_%a", [f"#SBATCH --array=0-{count - 1}{limit}"]) if count > 1 else ("%j", [])
    command = batch.program.command(SUPERVISOR, path)
    script = write_text(
        path.with_suffix(".sh"), _script(sweep, batch.site, batch.program, f"{log}.log", array, command)
    )
    job = slurm.submit(script, dependency=dependency)
    return [f"{job}_{index}" for index in range(count)] if count > 1 else [job]


def _remember(sweep: Sweep, part: Sequence[Planned], ids: Sequence[str], then: Sequence[str]) -> None:
    names = [entry.job.name for entry in part]
    known = sweep.submissions[-1]
    first, later = dict(zip(names, ids, strict=True)), dict(zip(names, then, strict=False))
    sweep.submissions[-1] = replace(known, jobs=known.jobs | first, then=known.then | later)
    sweep.save()
    for entry, job in zip(part, ids, strict=True):
        claim = read_claim(entry.job.path)
        assert claim is not None
        replace(claim, job=job, then=later.get(entry.job.name, "")).save(entry.job.path)


def _script(sweep: Sweep, site: Site, program: Program, log: str, array: list[str], command: list[str]) -> str:
    return "\n".join([
        "#!/bin/bash", f"#SBATCH --job-name={sweep.experiment}", f"#SBATCH --output={sweep.logs / log}",
        *site.sbatch_lines(), *array, *program.shell_lines(), *site.setup, f"exec {shlex.join(command)}", "",
    ])  # fmt: skip
