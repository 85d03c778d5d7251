"""hydra/launcher=submitit_local: the frozen jobs of a sweep on this machine, `site.processes` at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from submitit import Job

from pixelflow.errors import Interrupted, UserError
from pixelflow.files import is_locked, locked
from pixelflow.runs.status import LOCK_FILE, read_status, write_status
from pixelflow.signals import stop_on_signals, stop_signal
from pixelflow.sweeps.batch import Batch, BatchJob, newest_batch
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.devices import VISIBLE, visible_devices
from pixelflow.sweeps.executors import local_executor, submit
from pixelflow.sweeps.manifest import Sweep, launcher_lock
from pixelflow.sweeps.outcome import record_failure
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.slurm import last_line
from pixelflow.sweeps.supervisor import LocalJob

logger = logging.getLogger(__name__)

POLL = 0.5


@dataclass(frozen=True)
class _Running:
    job: BatchJob
    process: Job[Any]
    gpus: list[str]


def run_batch(sweep: Sweep) -> None:
    """Runs the jobs of the newest submission to their ends.

    Raises:
        Interrupted: A signal asked to stop; the running jobs have saved, and the others have not started.
        UserError: This machine has too few GPUs for a job.
    """
    path = newest_batch(sweep)
    batch = Batch.load(path)
    executor = local_executor(path.parent, batch.site, batch.program)
    waiting, running = list(enumerate(batch.jobs)), list[_Running]()
    free = share_gpus(batch.site, os.environ)
    with locked(launcher_lock(sweep.folder, batch.token)), stop_on_signals():
        while running or (waiting and stop_signal() is None):
            try:
                while waiting and free and stop_signal() is None:
                    (index, job), gpus = waiting.pop(0), free.pop(0)
                    visible = ",".join(gpus) if gpus else os.environ.get(VISIBLE)
                    call = LocalJob(str(path), index, str(sweep.logs / f"{job.name}.log"), visible)
                    running.append(_Running(job, submit(executor, [call])[0], gpus))
                    logger.info("started %s", job.name)
                for entry in [entry for entry in running if _is_over(entry)]:
                    running.remove(entry)
                    free.append(entry.gpus)
                    _ended(entry, batch.token)
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
    """Returns the GPUs or MIG slices of each job that may run at once; empty lists where jobs ask for none.

    Args:
        site: The queue settings.
        environment: The environment, for CUDA_VISIBLE_DEVICES.

    Raises:
        UserError: There are fewer GPUs than one job asks for.
    """
    if not site.gpus:
        return [[] for _ in range(site.processes)]
    gpus, size = visible_devices(environment), site.gpus
    shares = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)]
    if not shares:
        remedy = f"site.gpus_per_node={len(gpus)}" + (" site.gres=null" if site.gres else "")
        raise UserError(f"site: a job asks for {size} GPUs, and this machine shows {len(gpus)}; use {remedy}")
    return shares[: site.processes]


def _is_over(entry: _Running) -> bool:
    """Returns whether the supervisor and its task have ended: a task outlives a killed supervisor for a moment."""
    return entry.process.done() and not is_locked(entry.job.path / LOCK_FILE)


def _ended(entry: _Running, token: str) -> None:
    """Records the end of a job that could not do so itself."""
    folder = entry.job.path
    status, claim = read_status(folder), read_claim(folder)
    if claim and claim.token == token and stop_signal() is None and status.state != "finished":
        if status.updated < claim.time or status.state == "queued":
            record_failure(folder, f"it did not start: {last_line(entry.process.stderr() or '')}")
        elif status.state in ("starting", "running"):
            write_status(folder, "interrupted", "it was killed together with its supervisor")
    logger.info("%s: %s", entry.job.name, read_status(folder).state)


def _stop(running: Sequence[_Running]) -> None:
    """Asks the jobs to save; again and again, because a job that is still starting may not receive it."""
    for entry in running:
        if entry.process.done():  # its number may belong to another process by now
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(entry.process.job_id), signal.SIGTERM)
