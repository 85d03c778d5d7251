"""The process of a SLURM job: it starts the frozen task with srun, observes how the task ends, and reports to SLURM.

    python -m pixelflow.sweeps.supervisor BATCH        (in an array, the task's index selects the job of BATCH)

It is a process beside the task, because a task that is killed cannot report its own death. The exit status of srun
alone is not enough: it is 0 when a step is aborted, and a killed rank hides the rank that failed. status.json records
how far the task came.

    finished     exit 0                                             COMPLETED in SLURM
    failed       exit with the task's status                        FAILED
    interrupted  the task saved and left with 75: queued again      PENDING, the same job id, one restart more
    killed       no record (kill -9, out of memory): queued again, as long as steps are made between deaths

A job that SLURM itself ends (cancelled, requeued, its node lost) is left to SLURM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pixelflow import terminal
from pixelflow.errors import UserError, WorkFailed
from pixelflow.runs.attempts import read_attempts, record
from pixelflow.runs.status import held, write_status
from pixelflow.signals import CONTINUE
from pixelflow.sweeps import slurm
from pixelflow.sweeps.batch import Batch, BatchJob
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.outcome import is_finished, outcome_of, record_end, record_failure, step_of
from pixelflow.sweeps.site import Site

LOCK_PATIENCE = 60.0
"""Seconds to wait for the end of an earlier start of the same job."""


def main() -> None:
    """Supervises the job that the command line and SLURM's environment name."""
    batch = Batch.load(Path(sys.argv[1]))
    job = batch.jobs[int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))]
    # SLURM sends its signals to the task as well. This process ignores them and waits for the task's end.
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, lambda number, frame: None)
    sys.exit(supervise(batch, job))


def supervise(batch: Batch, job: BatchJob) -> int:
    """Runs the job once, and queues it again where it was interrupted. Returns the exit status for SLURM."""
    folder, site = job.path, batch.site
    claim = read_claim(folder)
    if claim is None or claim.token != batch.token:
        say(f"{folder} belongs to another submission now: nothing to do")
        return 0
    if is_finished(folder, batch.job, job.evaluations):
        say(f"{folder} is finished already")
        return 0
    if not wait_for_lock(folder):
        say(f"{folder} is in use by another process")
        return 1
    if reason := limit_reached(folder, batch.token, site):
        return give_up(folder, reason)
    name, node = job_name(os.environ), os.environ.get("SLURMD_NODENAME", "")
    record(folder, "start", token=batch.token, step=step_of(folder), job=name, node=node)
    write_status(folder, "starting")
    code = run_task(batch, job)
    outcome = outcome_of(folder, batch.job, job.evaluations, code)
    record_end(folder, code, outcome)
    say(f"{outcome} (exit status {code})")
    if outcome == "finished":
        return 0
    if outcome == "failed":
        return code if 0 < code < 128 else 1
    if slurm.state_of(name) != "RUNNING":
        return CONTINUE  # SLURM has cancelled the job, or queued it again already
    if read_attempts(folder, batch.token).stalls >= site.max_stalls:
        return give_up(folder, f"killed {site.max_stalls} times in a row without a step of progress")
    return queue_again(name, site, outcome)


def limit_reached(folder: Path, token: str, site: Site) -> str:
    """Returns why the run is not started again; empty where it may start."""
    attempts = read_attempts(folder, token)
    if attempts.stalls >= site.max_stalls:
        return f"killed {attempts.stalls} times in a row without a step of progress"
    if attempts.restarts >= site.max_restarts:
        return f"started again {attempts.restarts} times, the limit of site.max_restarts"
    return ""


def run_task(batch: Batch, job: BatchJob) -> int:
    """Runs the frozen job with srun. Returns its exit status, 128 + N after signal N."""
    command = batch.program.command(batch.program.entry, job.file)
    code = subprocess.Popen(["srun", *batch.site.srun_options(), *command]).wait()
    return code if code >= 0 else 128 - code


def queue_again(name: str, site: Site, outcome: str) -> int:
    """Queues the SLURM job `name` again, which ends this process. Returns the exit status where that fails."""
    if not site.requeue:
        say("site.requeue=false: repeat the sweep's command to continue from the last checkpoint")
        return CONTINUE
    try:
        slurm.requeue(name)
    except (UserError, WorkFailed) as error:
        say(f"{outcome}, and not queued again ({error}): repeat the sweep's command to continue")
    else:
        time.sleep(30)  # SLURM ends this process
    return CONTINUE


def give_up(folder: Path, message: str) -> int:
    """Records the run as failed. Returns the exit status for SLURM."""
    say(message)
    record_failure(folder, message)
    return 1


def job_name(environment: Mapping[str, str]) -> str:
    """Returns the id of this job for SLURM's commands.

    A task of an array is not named by SLURM_JOB_ID: for one of the tasks that is the id of the whole array.
    """
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def wait_for_lock(folder: Path) -> bool:
    """Waits until no process holds the run folder. Returns False where one still does after LOCK_PATIENCE seconds."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        with held(folder) as ours:
            if ours:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(1)


def say(message: str) -> None:
    """Writes a line with time and node to the job's log."""
    node = os.environ.get("SLURMD_NODENAME", "")
    terminal.say(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {node} {message}", stream=sys.stderr)


if __name__ == "__main__":
    main()
