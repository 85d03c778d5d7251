"""The states of a sweep's runs, from their folders and SLURM's queue together; neither alone is enough."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelflow.errors import UserError
from pixelflow.files import is_locked
from pixelflow.reporting.runs import read_evaluation
from pixelflow.runs.attempts import read_attempts
from pixelflow.runs.status import LOCK_FILE, RunStatus, read_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import Claim, read_claim
from pixelflow.sweeps.manifest import Sweep, SweepJob, launcher_lock
from pixelflow.sweeps.outcome import is_finished

UNFINISHED = ("failed", "interrupted", "incomplete", "lost", "cancelled", "new", "pruned")
"""States of runs that are neither finished nor at work."""
PRUNED = "pruned"
"""The file that marks the run folder of a trial that its search has stopped."""
TAIL = 1 << 16
"""Bytes at the end of metrics.jsonl that are searched for the newest loss."""


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    Args:
        job: The run.
        state: `new`, `queued`, `starting`, `running`, `stopping`, `finished`, `failed`, `interrupted`, `cancelled`,
            `pruned`, `incomplete`: another part of the job is finished than was asked for, such as the training or
            another evaluation, or `lost`: the process ended and recorded nothing.
        slurm: The job id in SLURM; empty for a run without SLURM.
        step: The training step that is reached.
        max_steps: The number of training steps.
        metric: The name and value of the main metric of the evaluation, or of the newest loss.
        node: The node on which it runs.
        time_left: The time until the job's limit, as squeue prints it.
        restarts: How often the job was started again.
        failures: How often the run has failed.
        message: The reason for the state.
    """

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
        """Whether the run is queued or at work."""
        return self.state in ("queued", "starting", "running", "stopping")


def sweep_states(sweep: Sweep) -> list[RunState]:
    """Returns the states of all runs of the sweep, in the order of its record."""
    return states_of(sweep.jobs.values(), submitting=bool(is_locked(sweep.lock_file)))


def states_of(jobs: Iterable[SweepJob], *, submitting: bool = False) -> list[RunState]:
    """Returns the states of runs. SLURM is asked once.

    Args:
        jobs: The runs.
        submitting: Whether another process submits runs of this experiment at present.

    Raises:
        WorkFailed: SLURM does not answer.
    """
    claims = [(job, read_claim(job.path)) for job in jobs]
    entries = live_jobs([claim for _, claim in claims if claim])
    return [run_state(job, claim, entries, submitting=submitting) for job, claim in claims]


def live_jobs(claims: Iterable[Claim]) -> dict[str, slurm.QueueEntry]:
    """Returns SLURM's entries of the claimed jobs by their ids. SLURM is not asked where no claim names a job."""
    claims = list(claims)
    ids = [job for claim in claims for job in claim.slurm_jobs]
    return slurm.queue({claim.user for claim in claims}, ids) if ids else {}


def run_state(
    job: SweepJob, claim: Claim | None, entries: Mapping[str, slurm.QueueEntry], *, submitting: bool = False
) -> RunState:
    """Returns the state of one run.

    Args:
        job: The run.
        claim: The claim in its folder.
        entries: SLURM's entries, see `live_jobs`.
        submitting: See `states_of`.
    """
    folder = job.path
    status, attempts = read_status(folder), read_attempts(folder)
    entry, name = queue_entry(claim, entries)
    state, message = _state(job, status, claim, entry), status.message
    if submitting and claim and claim.is_new and state not in ("finished", "running"):
        state, message = "queued", "is being submitted"
    elif state == "queued" and entry:
        message = "queued again" if attempts.restarts else entry.reason
    elif state == "queued" and claim and claim.launcher:
        message = f"waits for its launcher, {claim.launcher}"
    elif state == "lost":
        message = "it left the queue" if status.state == "queued" else "its process was killed"
    return RunState(
        job, state, name,
        step=status.step or 0, max_steps=status.max_steps or job.max_steps,
        metric=newest_metric(folder),
        node=entry.node if entry and entry.active else "",
        time_left=entry.time_left if entry and entry.state == "RUNNING" else "",
        restarts=attempts.restarts, failures=attempts.failures, message=message,
    )  # fmt: skip


def queue_entry(claim: Claim | None, entries: Mapping[str, slurm.QueueEntry]) -> tuple[slurm.QueueEntry | None, str]:
    """Returns SLURM's entry and the id of the claim's job, or of the evaluation after it once the job is over.

    While a job of another sweep is at work that the claim waits for, its entry is returned.
    """
    if claim is None:
        return None, ""
    for job in claim.after:
        if (earlier := entries.get(job)) and earlier.active:
            return earlier, job
    first, second = entries.get(claim.job), entries.get(claim.then)
    if second is not None and not (first and first.active):
        return second, claim.then
    return first, claim.job


def _state(job: SweepJob, status: RunStatus, claim: Claim | None, entry: slurm.QueueEntry | None) -> str:
    if is_finished(job.path, job.job, job.evaluations):
        return "finished"
    if entry is not None and entry.active:
        if entry.state == "RUNNING":
            return "starting" if status.state in ("queued", "starting", None) else "running"
        return "stopping" if entry.state == "COMPLETING" else "queued"
    state = status.state or "new"
    if (job.path / PRUNED).exists():
        return "pruned"
    if entry is not None and entry.state == "CANCELLED" and state != "failed":
        return "cancelled"  # SLURM also cancels the evaluation of a training that has failed
    return _unwatched(job.path, claim, state) if state in ("queued", "starting", "running", "finished") else state


def _unwatched(folder: Path, claim: Claim | None, state: str) -> str:
    """The state of a run whose status is not the end of the job, and of which SLURM has no active job."""
    if is_locked(folder / LOCK_FILE):
        return "running"
    if claim is not None and claim.launcher is not None and _launcher_works(claim):
        return "queued"
    if state == "finished":
        return "incomplete"
    return "lost" if claim is not None else "new"


def _launcher_works(claim: Claim) -> bool:
    """Returns whether the launcher of a local submission, on this machine or another, may still start its jobs."""
    assert claim.launcher is not None
    works = is_locked(launcher_lock(Path(claim.sweep), claim.token))
    return bool(claim.launcher.process) if works is None else works


def newest_metric(folder: Path) -> str:
    """Returns the main metric of the newest evaluation, or the newest loss, with its name; empty without either."""
    for file in sorted(folder.glob("evaluation/*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            metrics = read_evaluation(file).metrics
        except UserError:  # it is damaged
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


def chosen_runs(states: Sequence[RunState], runs: str | int | Sequence[str | int]) -> list[RunState]:
    """Returns the selected runs, each once.

    Args:
        states: The runs of the sweep.
        runs: `"all"`, `"failed"` for all that did not finish, or a list of numbers in the order of job=status, names
            and patterns.

    Raises:
        UserError: An entry selects no run.
    """
    if runs == "all":
        return list(states)
    if runs == "failed":
        return [state for state in states if state.state in UNFINISHED]
    chosen: dict[str, RunState] = {}
    for entry in [runs] if isinstance(runs, str | int) else runs:
        if isinstance(entry, int):
            found = list(states[entry : entry + 1])
        else:
            found = [state for state in states if fnmatch.fnmatch(state.job.name, entry)]
        if not found:
            raise UserError(f"job.runs: {entry!r} is none of the sweep's {len(states)} runs; job=status lists them")
        chosen |= {state.job.name: state for state in found}
    return list(chosen.values())
