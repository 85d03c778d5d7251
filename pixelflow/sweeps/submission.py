"""A submission: due runs are claimed and frozen, then given to SLURM or to the processes of this machine.

submitit pickles only the name of a frozen job (`supervisor.FrozenJob`), so that a job starts from the same files
whoever starts it again: SLURM after a lost node, or the supervisor outside the task, which observes how the task ends.
"""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import synced_together, write_text, writing
from pixelflow.runs.status import read_status, write_status
from pixelflow.sweeps import arrays, slurm
from pixelflow.sweeps.claims import Claim, Launcher, read_claim, remove_claim
from pixelflow.sweeps.manifest import SUBMISSION, Submission, Sweep, new_token
from pixelflow.sweeps.plan import PIPELINE, Planned, differing_values
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import PRUNED

DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Writes the same text as the other one in a fifth of the time, where libyaml is there."""


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
    """Claims and freezes the runs that are due, and gives them to SLURM. Everything is frozen before one is submitted.

    The caller holds `submitting`. With the launcher `"local"` the caller runs the batch itself.

    Args:
        sweep: The sweep, to which the submission is added.
        planned: The runs of the sweep; at least one of them is due.
        site: The queue settings.
        program: What runs the jobs.
        launcher: `"slurm"` or `"local"`.
        table: Whether a last job writes the table of the sweep.
        announce: Called when all due runs are claimed and none is submitted.

    Raises:
        UserError: SLURM refuses one of the jobs, or the folder does not allow writing. Nothing of the submission is
            left: jobs that were submitted are cancelled, and claims are undone.
        WorkFailed: SLURM does not answer, or the disk is full. The same holds, unless jobs cannot be cancelled either.
    """
    due = [entry for entry in planned if entry.due]
    submission = Submission(
        token=new_token(), time=time.time(), user=slurm.user_name(), host=platform.node(),
        command=shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]), launcher=launcher,
        commit=program.snapshot.commit, snapshot=program.snapshot.path, uncommitted=bool(program.snapshot.diff),
    )  # fmt: skip
    folder = sweep.submission_folder(submission.token)
    with _undone_on_failure(sweep, due, folder), writing(sweep.folder):
        sweep.logs.mkdir(parents=True, exist_ok=True)
        sweep.save()  # before the claims: what a kill leaves is then the folder of this sweep, without a submission
        size = len(due)
        if launcher == "slurm":
            size = min(site.max_array_size, slurm.array_limit() or site.max_array_size)
        with synced_together():
            _claim_all(sweep, planned, submission)
            program.save(folder)
            parts = arrays.freeze(folder, due, site, program, size=size, split=launcher == "slurm")
        announce()
        sweep.add(submission, [entry.job for entry in planned])
        if launcher == "slurm":
            with synced_together():
                first = None
                for part in parts:
                    first = arrays.submit_part(sweep, part, first)
            if table and due[0].job.job == PIPELINE:
                arrays.submit_table(sweep, site, program)
    return sweep.submissions[-1]


def _claim_all(sweep: Sweep, planned: Sequence[Planned], submission: Submission) -> None:
    tags = differing_values({entry.job.name: entry.configs[0] for entry in planned})
    launcher = Launcher.this_process() if submission.launcher == "local" else None
    for entry in planned:
        if not entry.due:
            continue
        path = entry.job.path
        path.mkdir(parents=True, exist_ok=True)
        if entry.job.makes_run and not (path / "config.yaml").exists():
            text = yaml.dump(dict(entry.configs[0]), Dumper=DUMPER, sort_keys=False)
            write_text(path / "config.yaml", text)
        token, user, when = submission.token, submission.user, submission.time
        about: dict[str, Any] = {"after": list(entry.after), "launcher": launcher, "tags": tags[entry.job.name]}
        Claim(str(sweep.folder), token, user, when, **about).save(path)
        (path / PRUNED).unlink(missing_ok=True)
        if read_status(path).state in (None, "cancelled"):
            write_status(path, "queued")


@contextmanager
def _undone_on_failure(sweep: Sweep, due: Sequence[Planned], folder: Path) -> Iterator[None]:
    """Cancels the jobs of the submission in `folder` and undoes its claims if the block fails."""
    before = {entry.job.name: read_claim(entry.job.path) for entry in due}
    fresh = {entry.job.name for entry in due if not entry.job.path.exists()}
    new_sweep, known, number = not sweep.folder.exists(), dict(sweep.jobs), len(sweep.submissions)
    try:
        yield
    except BaseException as error:
        what, over = "nothing was submitted", True
        if sweep.submissions[number:] and sweep.submissions[-1].launcher == "slurm":
            over, what = _cancel(folder)
        for entry in due if over else ():  # a job that could not be cancelled still needs its files, and its lock
            if entry.job.name in fresh:
                shutil.rmtree(entry.job.path, ignore_errors=True)
            elif claim := before[entry.job.name]:
                claim.save(entry.job.path)
            else:
                remove_claim(entry.job.path)
        if over:
            sweep.jobs, sweep.submissions[number:] = known, []
            (folder / SUBMISSION).unlink(missing_ok=True)  # first, since the submission counts as long as this exists
            shutil.rmtree(sweep.folder if new_sweep else folder, ignore_errors=True)
        if isinstance(error, UserError | WorkFailed):
            raise type(error)(f"{error}: {what}") from error
        raise


def _cancel(folder: Path) -> tuple[bool, str]:
    """Cancels the SLURM jobs of the submission in `folder`. Returns whether none is left, and what was done."""
    try:
        jobs = slurm.jobs_from(folder)
        slurm.cancel(jobs)
    except (UserError, WorkFailed) as error:
        return False, f"some jobs may have been submitted and could not be cancelled ({error}): see squeue"
    return True, f"what was submitted (SLURM jobs {', '.join(jobs)}) was cancelled" if jobs else "nothing was submitted"
