"""What a SLURM job runs: start the frozen task with srun, see how it ends, and say so to SLURM.

    python -m pixelflow.sweeps.supervisor BATCH        (in an array, the task's number picks the line of BATCH)

Its own process beside the task, because the task cannot tell its own death: status.json says how far the task came,
the exit status of srun alone does not (it is 0 when a step is aborted, and a killed rank outranks the one that failed).

    finished     exit 0                                             COMPLETED in SLURM
    failed       exit with the task's status                        FAILED
    interrupted  the task saved and left with 75: queued again      PENDING, the same job, one restart more
    killed       without a word (kill -9, out of memory): the same, while steps of progress are made between deaths

A job that SLURM itself ends (cancelled, requeued, its node lost) is left to SLURM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelflow.runs.attempts import read_attempts, record
from pixelflow.runs.status import held, read_status, write_status
from pixelflow.signals import CONTINUE
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.site import Site

SILENT = (0, *(128 + number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)))
"""Exit statuses of a task that did not end by itself."""
LOCK_PATIENCE = 60.0
"""Seconds that an earlier start of the same job may take to die."""


def main() -> None:
    batch = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    job = batch["jobs"][int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))]
    # SLURM's warnings are for the task, which gets them too; this process stays to see what comes of them.
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, lambda number, frame: None)
    sys.exit(supervise(batch, job))


def supervise(batch: Mapping[str, Any], job: Mapping[str, Any]) -> int:
    """The exit status for SLURM."""
    folder, site = Path(job["folder"]), Site(**batch["site"])
    claim = read_claim(folder)
    if claim is None or claim.token != batch["token"]:
        say(f"{folder} is another submission's by now: nothing to do")
        return 0
    if is_finished(folder, batch["job"]):
        say(f"{folder} is finished already")
        return 0
    if not free(folder):
        return give_up(folder, f"{folder} is in use by another process", write=False)
    attempts = read_attempts(folder, batch["token"])
    if attempts.stalls >= site.max_stalls:
        return give_up(folder, f"killed {attempts.stalls} times in a row without a step of progress")
    if attempts.restarts >= site.max_restarts:
        return give_up(folder, f"started again {attempts.restarts} times, the limit of site.max_restarts")
    before = step_of(folder)
    record(
        folder,
        "start",
        token=batch["token"],
        step=before,
        job=job_name(os.environ),
        node=os.environ.get("SLURMD_NODENAME", ""),
    )
    write_status(folder, "starting")
    code = run_task(batch, job, site)
    outcome = outcome_of(folder, batch["job"], code)
    record(folder, "end", step=step_of(folder), exit=code, outcome=outcome)
    say(f"{outcome} (exit status {code})")
    if outcome == "finished":
        return 0
    if outcome == "failed":
        return code if 0 < code < 128 else 1
    if slurm.state_of(job_name(os.environ)) != "RUNNING":
        return CONTINUE  # cancelled, or queued again already: the word is SLURM's
    if read_attempts(folder, batch["token"]).stalls >= site.max_stalls:
        return give_up(folder, f"killed {site.max_stalls} times in a row without a step of progress")
    return again(folder, site, outcome)


def run_task(batch: Mapping[str, Any], job: Mapping[str, Any], site: Site) -> int:
    command = [batch["python"], "-P", "-m", "pixelflow.frozen_job", job["file"]]
    process = subprocess.Popen(["srun", *site.srun_options(), *command])
    code = process.wait()
    return code if code >= 0 else 128 - code


def outcome_of(folder: Path, job: str, code: int) -> str:
    state = read_status(folder).state
    if is_finished(folder, job):
        return "finished"
    if state == "interrupted" or (code == CONTINUE and state != "failed"):
        return "interrupted"
    # Ended by a signal of SLURM's, or 0 from a step that was aborted: no word. Anything else came from the task, or
    # from its start.
    return "killed" if state != "failed" and code in SILENT else "failed"


def again(folder: Path, site: Site, outcome: str) -> int:
    if not site.requeue:
        say("site.requeue=false: the same command goes on from the last checkpoint")
        return CONTINUE
    try:
        slurm.requeue(job_name(os.environ))
    except slurm.SlurmError as error:
        say(f"{outcome}, and not queued again ({error}): the same command goes on from the last checkpoint")
    else:
        time.sleep(30)  # SLURM ends this process
    return CONTINUE


def give_up(folder: Path, message: str, *, write: bool = True) -> int:
    say(message)
    if write:
        write_status(folder, "failed", message)
        record(folder, "end", step=step_of(folder), exit=1, outcome="failed")
    return 1


def job_name(environment: Mapping[str, str]) -> str:
    """As SLURM's commands take it. A task of an array must not be named by its own number: that of one of the tasks
    is the whole array's."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def is_finished(folder: Path, job: str) -> bool:
    status = read_status(folder)
    return status.state == "finished" and status.job in (job, "pipeline")


def step_of(folder: Path) -> int:
    return read_status(folder).step or 0


def free(folder: Path) -> bool:
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        with held(folder) as ours:
            if ours:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(1)


def say(message: str) -> None:
    node = os.environ.get("SLURMD_NODENAME", "")
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {node} {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
