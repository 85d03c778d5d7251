"""A submission: due runs are claimed and frozen, then given to SLURM or to the processes of this machine.

The batch script is our own rather than submitit's. submitit queues a pickled callable again only when its own handler
saw the signal; a job that SLURM requeued, or that was killed, starts from the original pickle. Here a job is a frozen
config, and a supervisor outside the task (supervisor.py) observes every way in which the task can end.
"""

from __future__ import annotations

import getpass
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import write_text, writing
from pixelflow.runs.status import read_status, write_status
from pixelflow.sweeps import arrays
from pixelflow.sweeps.batch import Batch
from pixelflow.sweeps.claims import Claim, local_job, read_claim, remove_claim
from pixelflow.sweeps.manifest import Submission, Sweep, new_token
from pixelflow.sweeps.plan import Planned, differing_values
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import PRUNED


def submit(
    sweep: Sweep,
    planned: Sequence[Planned],
    site: Site,
    program: Program,
    *,
    launcher: str,
    table: bool = True,
    announce: Callable[[], None] = lambda: None,
) -> Submission:
    """Claims and freezes the runs that are due, and gives them to SLURM.

    The caller holds `submitting`. With the launcher `"local"` the caller runs the batch itself.

    Args:
        sweep: The sweep; its manifest is saved with the new submission.
        planned: The runs of the sweep; at least one of them is due.
        site: The queue settings.
        program: What runs the jobs.
        launcher: `"slurm"` or `"local"`.
        table: Whether a last job writes the table of the sweep.
        announce: Called when all due runs are claimed and none is submitted.

    Raises:
        UserError: SLURM refuses the jobs, or the folder does not allow writing. The message says what was submitted;
            claims of runs that were not submitted are undone.
        WorkFailed: SLURM does not answer, or the disk is full. The same holds.
    """
    due = [entry for entry in planned if entry.due]
    submission = Submission(
        token=new_token(), time=time.time(), user=getpass.getuser(), host=platform.node(),
        command=shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]), launcher=launcher,
        commit=program.snapshot.commit, snapshot=program.snapshot.path, uncommitted=bool(program.snapshot.diff),
    )  # fmt: skip
    folder = sweep.submission_folder(submission.token)
    with _undone_on_failure(sweep, due, folder) as keep, writing(sweep.folder):
        sweep.jobs |= {entry.job.name: entry.job for entry in planned}
        sweep.logs.mkdir(parents=True, exist_ok=True)
        _claim_all(sweep, planned, submission)
        program.save(folder)
        announce()
        sweep.submissions.append(submission)
        if launcher == "local":
            Batch.freeze(
                folder / "batch_0.json", due, token=submission.token, job=due[0].job.job, site=site, program=program
            )
            sweep.save()
            return submission
        for part in arrays.parts(due, site):
            arrays.submit_part(sweep, part, site, program)
            keep(part)
    if table and due[0].job.job == arrays.PIPELINE:
        arrays.submit_table(sweep, site, program)
    return sweep.submissions[-1]


def _claim_all(sweep: Sweep, planned: Sequence[Planned], submission: Submission) -> None:
    tags = differing_values({entry.job.name: entry.configs[0] for entry in planned})
    job = local_job(os.getpid()) if submission.launcher == "local" else ""
    for entry in planned:
        if not entry.due:
            continue
        path = entry.job.path
        path.mkdir(parents=True, exist_ok=True)
        if entry.job.makes_run and not (path / "config.yaml").exists():
            write_text(path / "config.yaml", yaml.safe_dump(dict(entry.configs[0]), sort_keys=False))
        token, user, when = submission.token, submission.user, submission.time
        Claim(str(sweep.folder), token, user, when, job, tags=tags[entry.job.name]).save(path)
        (path / PRUNED).unlink(missing_ok=True)
        if read_status(path).state in (None, "cancelled"):
            write_status(path, "queued")


@contextmanager
def _undone_on_failure(
    sweep: Sweep, due: Sequence[Planned], folder: Path
) -> Iterator[Callable[[Sequence[Planned]], None]]:
    """Undoes the claims of runs that were not submitted. Yields a function that marks runs as submitted."""
    before = {entry.job.name: read_claim(entry.job.path) for entry in due}
    fresh = {entry.job.name for entry in due if not entry.job.path.exists()}
    new_sweep, known, number = not sweep.folder.exists(), dict(sweep.jobs), len(sweep.submissions)
    kept: set[str] = set()
    try:
        yield lambda part: kept.update(entry.job.name for entry in part)
    except BaseException as error:
        for entry in due:
            if entry.job.name in kept:
                continue
            if entry.job.name in fresh:
                shutil.rmtree(entry.job.path, ignore_errors=True)
            elif claim := before[entry.job.name]:
                claim.save(entry.job.path)
            else:
                remove_claim(entry.job.path)
        what = "nothing was submitted"
        if kept:
            ids = ", ".join(sweep.submissions[number].slurm_ids)
            what = (
                f"{len(kept)} of {len(due)} jobs were submitted before (SLURM jobs {ids}); the same command "
                "submits the others"
            )
        else:
            shutil.rmtree(sweep.folder if new_sweep else folder, ignore_errors=True)
            sweep.jobs, sweep.submissions[number:] = known, []
        if isinstance(error, UserError | WorkFailed):
            raise type(error)(f"{error}: {what}") from error
        raise
