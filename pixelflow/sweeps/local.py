"""hydra/launcher=local: the frozen jobs of a sweep as processes of this machine, `site.processes` at a time."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pixelflow.errors import Interrupted, UserError
from pixelflow.runs.attempts import read_attempts, record
from pixelflow.runs.status import read_status, write_status
from pixelflow.signals import held_back, stop_on_signals, stop_signal
from pixelflow.sweeps.batch import Batch, BatchJob, newest_batch
from pixelflow.sweeps.claims import local_job, read_claim
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.outcome import outcome_of, record_end, record_failure, step_of
from pixelflow.sweeps.site import Site

logger = logging.getLogger(__name__)

POLL = 0.5


@dataclass
class _Running:
    job: BatchJob
    process: subprocess.Popen[bytes]
    gpus: list[str]
    log: IO[bytes]


def run_batch(sweep: Sweep) -> None:
    """Runs the jobs of the newest submission to their ends.

    Raises:
        Interrupted: A signal asked to stop; the running jobs have saved, and the others have not started.
        UserError: This machine has too few GPUs for a job.
    """
    batch = newest_batch(sweep)
    waiting, running = list(batch.jobs), list[_Running]()
    free = share_gpus(batch.site, os.environ)
    with stop_on_signals():
        while running or (waiting and stop_signal() is None):
            try:
                while waiting and len(running) < batch.site.processes and free and stop_signal() is None:
                    if started := _start(sweep, batch, waiting.pop(0), free[0]):
                        running.append(started)
                        free.pop(0)
                for entry in [entry for entry in running if entry.process.poll() is not None]:
                    running.remove(entry)
                    free.append(entry.gpus)
                    if _ended(batch, entry) == "killed":
                        waiting.append(entry.job)
                if stop_signal() is not None:
                    _stop(running)
                time.sleep(POLL)
            except KeyboardInterrupt:  # the second Ctrl-C, which the terminal sent to the jobs as well
                _stop(running)
                waiting = []
    left = [job for job in batch.jobs if read_status(job.path).state in ("interrupted", "queued")]
    if left:
        raise Interrupted(f"{len(left)} of {len(batch.jobs)} runs are left")


def share_gpus(site: Site, environment: Mapping[str, str]) -> list[list[str]]:
    """Returns the GPUs of each process that may run at once; empty lists where jobs ask for none.

    Args:
        site: The queue settings.
        environment: The environment, for CUDA_VISIBLE_DEVICES.

    Raises:
        UserError: There are fewer GPUs than one job asks for.
    """
    if not site.gpus_per_node:
        return [[] for _ in range(site.processes)]
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        gpus = [gpu for gpu in given.split(",") if gpu]
    else:
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
        except FileNotFoundError:
            listed = ""
        gpus = [str(index) for index, _ in enumerate(listed.splitlines())]
    size = site.gpus_per_node
    shares = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)]
    if not shares:
        raise UserError(f"site.gpus_per_node={size}: this machine shows {len(gpus)} GPUs; use site.gpus_per_node=0")
    return shares[: site.processes]


def _start(sweep: Sweep, batch: Batch, job: BatchJob, gpus: list[str]) -> _Running | None:
    claim = read_claim(job.path)
    if claim is None or claim.token != batch.token:
        logger.info("%s belongs to another submission now", job.path)
        return None
    record(job.path, "start", token=batch.token, step=step_of(job.path), job=local_job(os.getpid()))
    write_status(job.path, "starting")
    program = batch.program
    environment = program.environment | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
    log = open(sweep.logs / f"{job.name}.log", "ab")  # noqa: SIM115
    command = program.command(program.entry, job.file)
    with held_back():  # the terminal's Ctrl-C reaches it as well, and must not end it while it imports
        process = subprocess.Popen(command, env=environment, cwd=program.cwd, stdout=log, stderr=log)
    logger.info("started %s", job.name)
    return _Running(job, process, gpus, log)


def _ended(batch: Batch, entry: _Running) -> str:
    folder: Path = entry.job.path
    code = entry.process.returncode
    code = code if code >= 0 else 128 - code
    outcome = outcome_of(folder, batch.job, entry.job.evaluations, code)
    record_end(folder, code, outcome)
    entry.log.close()
    logger.info("%s: %s", entry.job.name, outcome)
    if outcome == "killed" and stop_signal() is not None:
        write_status(folder, "interrupted", "ended by a signal before it could save")
        return "interrupted"
    if outcome == "killed" and read_attempts(folder).stalls >= batch.site.max_stalls:
        message = "killed without a step of progress"
        logger.info("%s: %s", entry.job.name, message)
        record_failure(folder, message)
        return "failed"
    return outcome


def _stop(running: list[_Running]) -> None:
    for entry in running:
        if entry.process.poll() is None:
            entry.process.send_signal(signal.SIGTERM)
