"""hydra/launcher=local: the frozen jobs of a sweep as processes of this machine, a few at a time."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pixelflow.runs.attempts import read_attempts, record
from pixelflow.runs.status import read_status, write_status
from pixelflow.signals import stop_on_signals, stop_signal
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.supervisor import give_up, outcome_of, step_of

logger = logging.getLogger(__name__)

POLL = 0.5


@dataclass
class _Running:
    job: Mapping[str, Any]
    process: subprocess.Popen[bytes]
    gpus: list[str]
    log: IO[bytes]


def run_batch(sweep: Sweep) -> None:
    """Run the newest submission's jobs to their ends. Raises Interrupted when a signal came, with all of it saved."""
    from pixelflow.errors import Interrupted

    token = sweep.submissions[-1].token
    batch = json.loads((sweep.folder / "submissions" / token / "batch_0.json").read_text(encoding="utf-8"))
    site = Site(**batch["site"])
    waiting: list[Mapping[str, Any]] = list(batch["jobs"])
    running: list[_Running] = []
    free = share_gpus(site, os.environ)
    with stop_on_signals():
        while running or (waiting and stop_signal() is None):
            try:
                while waiting and len(running) < site.processes and free and stop_signal() is None:
                    if started := _start(sweep, batch, waiting.pop(0), free[0]):
                        running.append(started)
                        free.pop(0)
                for entry in [entry for entry in running if entry.process.poll() is not None]:
                    running.remove(entry)
                    free.append(entry.gpus)
                    if _ended(batch, entry, site) == "killed":
                        waiting.append(entry.job)
                if stop_signal() is not None:
                    _stop(running)
                time.sleep(POLL)
            except KeyboardInterrupt:  # Ctrl-C went to the jobs, too
                _stop(running)
                waiting = []
    left = [job for job in batch["jobs"] if read_status(Path(job["folder"])).state in ("interrupted", "queued")]
    if left:
        raise Interrupted(f"{len(left)} of {len(batch['jobs'])} runs are left")


def share_gpus(site: Site, environment: Mapping[str, str]) -> list[list[str]]:
    """A share of the GPUs for each process that may run at once; empty shares where jobs ask for none.

    Raises ValueError where there are too few for one job.
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
        raise ValueError(f"site.gpus_per_node={size}: this machine shows {len(gpus)} GPUs; use site.gpus_per_node=0")
    return shares[: site.processes]


def _start(sweep: Sweep, batch: Mapping[str, Any], job: Mapping[str, Any], gpus: list[str]) -> _Running | None:
    folder = Path(job["folder"])
    claim = read_claim(folder)
    if claim is None or claim.token != batch["token"]:
        logger.info("%s is another submission's by now", folder)
        return None
    record(folder, "start", token=batch["token"], step=step_of(folder), job=f"pid {os.getpid()}")
    write_status(folder, "starting")
    environment = os.environ | {"PYTHONPATH": batch["snapshot"]}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    log = open(sweep.folder / "logs" / f"{job['name']}.log", "ab")  # noqa: SIM115
    command = [batch["python"], "-P", "-m", "pixelflow.frozen_job", job["file"]]
    process = subprocess.Popen(command, env=environment, cwd=batch["cwd"], stdout=log, stderr=log)
    logger.info("started %s", job["name"])
    return _Running(job, process, gpus, log)


def _ended(batch: Mapping[str, Any], entry: _Running, site: Site) -> str:
    folder = Path(entry.job["folder"])
    code = entry.process.returncode
    code = code if code >= 0 else 128 - code
    outcome = outcome_of(folder, batch["job"], code)
    record(folder, "end", step=step_of(folder), exit=code, outcome=outcome)
    entry.log.close()
    logger.info("%s: %s", entry.job["name"], outcome)
    if outcome == "killed" and (read_attempts(folder).stalls >= site.max_stalls or stop_signal() is not None):
        give_up(folder, "killed without a step of progress")
        return "failed"
    return outcome


def _stop(running: list[_Running]) -> None:
    for entry in running:
        if entry.process.poll() is None:
            entry.process.send_signal(signal.SIGTERM)
