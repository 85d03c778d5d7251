"""How the runs of a sweep stand, from their folders and the queue together: neither alone knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pixelflow.runs.attempts import read_attempts
from pixelflow.runs.status import RunStatus, held, read_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import Claim, read_claim
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.supervisor import is_finished

PRUNED = "pruned"
"""In the run folder of a trial that its search gave up."""
TAIL = 1 << 16
"""Bytes at the end of metrics.jsonl in which the newest loss is looked for."""


@dataclass(frozen=True)
class RunState:
    """state: new, queued, starting, running, finished, failed, interrupted, cancelled, pruned, or lost: its process
    ended without a word. metric: the newest loss, or the main metric of its evaluation, with its name."""

    job: SweepJob
    state: str
    slurm: str = ""
    step: int = 0
    max_steps: int = 0
    metric: str = ""
    node: str = ""
    time_left: str = ""
    restarts: int = 0
    failures: int = 0
    message: str = ""

    @property
    def active(self) -> bool:
        return self.state in ("queued", "starting", "running", "stopping")


def sweep_states(sweep: Sweep) -> list[RunState]:
    claims = {name: read_claim(job.path) for name, job in sweep.jobs.items()}
    entries = live_jobs([claim for claim in claims.values() if claim])
    return [run_state(job, claims[name], entries) for name, job in sweep.jobs.items()]


def live_jobs(claims: list[Claim]) -> dict[str, slurm.QueueEntry]:
    """What SLURM says of claimed jobs; nothing where none was ever given to it."""
    ids = [job for claim in claims for job in (claim.job, claim.then) if job and not job.startswith("pid ")]
    return slurm.queue({claim.user for claim in claims}, ids) if ids else {}


def run_state(job: SweepJob, claim: Claim | None, entries: Mapping[str, slurm.QueueEntry]) -> RunState:
    folder = job.path
    status, attempts = read_status(folder), read_attempts(folder)
    entry, name = queue_entry(claim, entries)
    state, message = _state(job, status, claim, entry), status.message
    if state == "queued" and entry:
        message = "queued again" if attempts.restarts else entry.reason
    return RunState(
        job, state, name,
        step=status.step or 0, max_steps=status.max_steps or job.max_steps,
        metric=newest_metric(folder),
        node=entry.node if entry and entry.active else "",
        time_left=entry.time_left if entry and entry.state == "RUNNING" else "",
        restarts=attempts.restarts, failures=attempts.failures, message=message,
    )  # fmt: skip


def queue_entry(claim: Claim | None, entries: Mapping[str, slurm.QueueEntry]) -> tuple[slurm.QueueEntry | None, str]:
    """Of the claim's job; of the one that evaluates after it, once the first is over."""
    if claim is None:
        return None, ""
    first, second = entries.get(claim.job), entries.get(claim.then)
    if second is not None and not (first and first.active):
        return second, claim.then
    return first, claim.job


def _state(job: SweepJob, status: RunStatus, claim: Claim | None, entry: slurm.QueueEntry | None) -> str:
    if is_finished(job.path, job.job):
        return "finished"
    if entry is not None and entry.active:
        if entry.state == "RUNNING":
            return "starting" if status.state in ("queued", "starting", None) else "running"
        return "stopping" if entry.state == "COMPLETING" else "queued"
    state = status.state or "new"
    if (job.path / PRUNED).exists():
        return "pruned"
    if entry is not None and entry.state == "CANCELLED":
        return "cancelled"
    if state in ("queued", "starting", "running", "finished"):  # finished: another part of the job than was asked for
        if (job.path / ".lock").exists():
            with held(job.path) as ours:
                if not ours:
                    return "running"
        if claim is not None and claim.job.startswith("pid ") and Path(f"/proc/{claim.job[4:]}").exists():
            return "queued"
        return "lost" if claim is not None else "new"
    return state


def newest_metric(folder: Path) -> str:
    for file in sorted(folder.glob("evaluation/*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
        except (OSError, ValueError, KeyError):
            continue
        return next((f"{name} {value:.4g}" for name, value in metrics.items()), "")
    try:
        with open(folder / "metrics.jsonl", "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - TAIL))
            lines = stream.read().splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        if b'"loss"' in line:
            try:
                return f"loss {float(json.loads(line)['metrics']['loss']):.4g}"
            except (ValueError, KeyError, TypeError):
                continue
    return ""
