"""The plan of a submission: which runs of a sweep are due, and which are finished or at work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.runs.status import read_status
from pixelflow.sweeps.claims import Claim, read_claim
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import RunState, live_jobs, run_state

PIPELINE, TRAIN = "pipeline", "train"
"""The job that trains and evaluates, and its first half, which can be a separate SLURM job."""


@dataclass(frozen=True)
class Planned:
    """A run of a sweep and what a submission does with it.

    Args:
        job: The run.
        configs: Its resolved configs. There are several where settings differ only in sampling and metrics: they share
            the run, and the job executes one after the other.
        action: `submit` (a new run), `resume` (interrupted), `retry` (failed), `follow` (another sweep's jobs are at
            work on the run, and do not make all of its evaluations), `later` (the same, without SLURM) or `skip`.
        why: The reason, in a few words.
        after: With `follow`, the ids of those jobs.
    """

    job: SweepJob
    configs: list[Mapping[str, Any]]
    action: str
    why: str
    after: tuple[str, ...] = ()

    @property
    def due(self) -> bool:
        """Whether the run is submitted."""
        return self.action not in ("skip", "later")


def steps_of(job: str, site: Site, split: bool) -> list[tuple[str, Site]]:
    """Returns the jobs that make one run, one after the other, each with its queue settings.

    Args:
        job: The job of the run.
        site: The queue settings.
        split: Whether `site.evaluation` applies.
    """
    if split and job == PIPELINE and site.evaluation is not None:
        return [(TRAIN, site), (PIPELINE, site.for_evaluation())]
    return [(job, site)]


def plan(
    jobs: Sequence[tuple[SweepJob, Mapping[str, Any]]], site: Site, *, again: bool = False, launcher: str = "slurm"
) -> list[Planned]:
    """Returns what each run needs now.

    Args:
        jobs: The settings: runs with their configs. Settings of one run folder become one run.
        site: The queue settings, for the limit of failures.
        again: Whether runs that failed too often, or were pruned, are due as well.
        launcher: `"slurm"` or `"local"`, whose jobs cannot wait for others.
    """
    runs = _merged(jobs)
    claims = {job.name: read_claim(job.path) for job, _ in runs}
    entries = live_jobs([claim for claim in claims.values() if claim])
    planned = []
    for job, configs in runs:
        claim = claims[job.name]
        state = run_state(job, claim, entries)
        action, why = _action(state, site, again)
        after: tuple[str, ...] = ()
        if state.active and _left_by(claim, job):
            known = claim.slurm_jobs if claim else []
            after = tuple(name for name in known if name in entries and entries[name].active)
            action = "follow" if after and launcher == "slurm" else "later"
            why = f"{why} for another command"
        planned.append(Planned(job, configs, action, why, after if action == "follow" else ()))
    return planned


def _left_by(claim: Claim | None, job: SweepJob) -> bool:
    """Whether the sweep or command that is at work on a run leaves evaluations of it that do not exist yet."""
    try:
        other = Sweep.load(Path(claim.sweep)).jobs.get(job.name) if claim else None
    except UserError:  # its folder was removed: what its jobs will make is not known, and a needless job ends at once
        other = None
    planned = other.evaluations if other else []
    return not set(job.evaluations) <= {*planned, *read_status(job.path).evaluations}


def _merged(jobs: Sequence[tuple[SweepJob, Mapping[str, Any]]]) -> list[tuple[SweepJob, list[Mapping[str, Any]]]]:
    """Returns one entry for each run folder, with all evaluations and distinct configs."""
    runs: dict[str, tuple[SweepJob, list[Mapping[str, Any]]]] = {}
    for job, config in jobs:
        known, configs = runs.get(job.folder, (job, []))
        evaluations = [*known.evaluations, *(name for name in job.evaluations if name not in known.evaluations)]
        runs[job.folder] = (
            replace(known, evaluations=evaluations),
            [*configs, config] if config not in configs else configs,
        )
    return list(runs.values())


def _action(state: RunState, site: Site, again: bool) -> tuple[str, str]:
    if state.state == "finished":
        return "skip", "finished"
    if state.active:
        return "skip", f"{state.state}{f' as {state.slurm}' if state.slurm else ''}"
    if state.state == "pruned" and not again:
        return "skip", "pruned"
    if state.failures >= site.max_attempts and not again:
        return "skip", f"failed {state.failures} times ({state.message}); job=retry tries again"
    if state.state == "new":
        return "submit", "new"
    where = f" at step {state.step}" if state.step else ""
    if state.state == "failed":
        return "retry", f"failed{where}: {state.message}"
    return "resume", f"{state.state}{where}"


def differing_values(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Returns, for each run, the config values that differ between the runs of the sweep."""
    flat = {name: dict(_flatten(config, "")) for name, config in configs.items()}
    keys = sorted({key for values in flat.values() for key in values})
    varying = [key for key in keys if len({values.get(key, "") for values in flat.values()}) > 1]
    ignored = ("run_folder", "samples", "checkpoint")
    return {name: {k: v[k] for k in varying if k in v and k not in ignored} for name, v in flat.items()}


def _flatten(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
