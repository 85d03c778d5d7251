"""From the request of a launcher to jobs: the plan is shown, or submitted and, if asked for, awaited."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.reporting.formats import markdown
from pixelflow.runs.context import run_path
from pixelflow.runs.folder import ROOT
from pixelflow.runs.identity import config_hash, slug
from pixelflow.runs.sharing import record_use
from pixelflow.runs.snapshot import Snapshot, take_snapshot
from pixelflow.sweeps.budget import check_budget
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.final_job import sweep_table
from pixelflow.sweeps.local import run_batch, share_gpus
from pixelflow.sweeps.manifest import Sweep, SweepJob, submitting
from pixelflow.sweeps.plan import Planned, plan
from pixelflow.sweeps.program import Program, is_installed
from pixelflow.sweeps.requests import RunRequest, SweepRequest
from pixelflow.sweeps.show import print_plan, print_submission, verdict
from pixelflow.sweeps.slurm import require_slurm
from pixelflow.sweeps.states import RunState, sweep_states
from pixelflow.sweeps.submission import submit
from pixelflow.sweeps.waiting import follow, result_of, until_answered
from pixelflow.terminal import one_line, say
from pixelflow.tracking.mlflow.children import schedule


def launch(request: SweepRequest, runs: list[RunRequest], trials: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Submits the runs that are due.

    Args:
        request: The sweep.
        runs: Its runs.
        trials: The optuna trial and the metric of each run, for pruning.

    Returns:
        With `request.wait`, each run's value or error (see `waiting.result_of`); otherwise nothing.

    Raises:
        UserError: The folder belongs to another sweep, the budget is too small, or SLURM refuses the jobs.
        WorkFailed: SLURM does not answer, or the disk is full.
        Interrupted: A signal stopped the jobs of this machine; they have saved.
    """
    if request.launcher == "slurm" and not request.dry_run:
        require_slurm()
    digest = request.digest(runs)
    folder = request.folder or request.experiment_folder / f"sweep-{digest}"
    sweep = _sweep(folder, request, digest)
    jobs = _jobs(runs, folder)
    if request.dry_run:
        print_plan(plan(jobs, request.site, launcher=request.launcher), request.site, folder, request.launcher)
        sys.exit(0)
    states: list[RunState] = []
    for _ in range(1 + request.site.max_attempts):
        if request.search is None:
            sweep, planned = _submit_due(request, jobs, sweep)
        else:
            sweep, planned = until_answered(partial(_submit_due, request, jobs, sweep))
        due = any(entry.due for entry in planned)
        print_submission(sweep, planned)
        if request.launcher == "local" and due:
            run_batch(sweep)
        if request.wait:
            merged = {entry.job.name: entry.job for entry in planned}
            states = follow([merged[job.name] for job, _ in jobs], trials)
        # The supervisor of a trial can be killed as well; without its value the search would end.
        left = request.search and request.site.requeue and any(s.state in ("interrupted", "lost") for s in states)
        later = request.wait and any(entry.action == "later" for entry in planned)
        if not left and not later:
            break
    if request.search is None and (request.wait or not due):
        _show_end(sweep)
    return [result_of(state, run.evaluation) for state, run in zip(states, runs, strict=False)]


def _submit_due(
    request: SweepRequest, jobs: Sequence[tuple[SweepJob, Mapping[str, Any]]], sweep: Sweep
) -> tuple[Sweep, list[Planned]]:
    """Plans the runs and submits those that are due. Returns the sweep as it is then."""
    with submitting(sweep):
        sweep = _sweep(sweep.folder, request, sweep.digest)  # read again: another submitter may have changed it
        planned = plan(jobs, request.site, launcher=request.launcher)
        if due := [entry for entry in planned if entry.due]:
            check_budget(due, request.site, request.launcher)
            if request.launcher == "local":
                share_gpus(request.site, os.environ)  # before a run is claimed
            _submit(sweep, planned, request)
        for job, config in jobs:
            for name in job.evaluations:
                record_use(config, job.path, name)
    return sweep, planned


def _submit(sweep: Sweep, planned: Sequence[Planned], request: SweepRequest) -> None:
    """Freezes the code, creates the runs in MLflow, and submits the jobs."""
    if is_installed(ROOT):
        snapshot = Snapshot(path="", commit="", diff="")  # jobs import the same installed package
    else:
        snapshot = take_snapshot(ROOT, request.runs_dir / ".code", uncommitted=request.site.uncommitted)
    submit(
        sweep, planned, request.site, Program.of_this_process(request.entry, snapshot, ROOT),
        launcher=request.launcher, table=request.search is None,
        announce=lambda: _announce(sweep, planned, request),
    )  # fmt: skip


def _announce(sweep: Sweep, planned: Sequence[Planned], request: SweepRequest) -> None:
    """Creates experiment, parent and children in MLflow before the first job starts."""
    folders = [entry.job.path for entry in planned if entry.due and entry.job.makes_run]
    if request.mlflow_uri is None or not folders:
        return
    children = {folder: claim.tags for folder in folders if (claim := read_claim(folder))}
    sweep.mlflow = schedule(
        children, uri=request.mlflow_uri, experiment=request.runs_folder.name, name=sweep.folder.name,
        parent_run_id=sweep.mlflow.get("parent_run_id"),
    )  # fmt: skip


def _show_end(sweep: Sweep) -> None:
    """Prints the table once no run is active. Exits with 1 where a run is missing from it."""
    states = sweep_states(sweep)
    if any(state.active for state in states):
        return
    if table := sweep_table(sweep):
        say(f"\n{markdown(table)}\ntable: {sweep.folder / 'table.md'} (and .csv, .tex, .png)")
    for state in states:
        if state.state not in ("finished", "pruned"):
            say(f"{state.state}: {state.job.name}: {one_line(state.message)}")
    if verdict(states):
        sys.exit(1)


def _jobs(runs: Sequence[RunRequest], sweep: Path) -> list[tuple[SweepJob, Mapping[str, Any]]]:
    """Returns the runs with their folders, and their configs with the folder in them.

    Settings with equal weights share the folder of the first of them, whatever files and overrides they come from.
    """
    folders: dict[tuple[str, str], Path] = {}
    jobs = []
    for run in runs:
        if run.makes_run:
            weights = run.config["experiment"], config_hash(run.config)
            path = folders[weights] = folders.get(weights) or run_path(run.config, run.overrides)
        else:  # its results lie beside its checkpoint or samples; this folder holds its status
            path = sweep / "tasks" / f"{slug(run.overrides)}-{run.task_digest}"
        jobs.append(_job(run, path))
    return jobs


def _job(run: RunRequest, path: Path) -> tuple[SweepJob, Mapping[str, Any]]:
    config = {**run.config, "run_folder": str(path) if run.makes_run else None, "rerun": False}
    evaluations = [run.evaluation] if run.evaluation else []
    job = SweepJob(path.name, str(path), run.job, run.overrides, run.digest, run.max_steps, run.makes_run, evaluations)
    return job, config


def _sweep(folder: Path, request: SweepRequest, digest: str) -> Sweep:
    if not folder.exists() or not any(folder.iterdir()):
        runs = "" if folder.parent == request.runs_folder else str(request.runs_folder)
        return Sweep(folder, request.experiment, digest, presentation=request.presentation, experiment_folder=runs)
    sweep = Sweep.load(folder)
    if sweep.digest != digest:
        raise UserError(
            f"{folder} belongs to another config ({len(sweep.jobs)} runs of {sweep.experiment}): "
            "choose another folder with sweep=PATH, or leave sweep out; nothing was submitted"
        )
    sweep.presentation = request.presentation
    return sweep
