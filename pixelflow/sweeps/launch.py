"""A sweep, from composed configs to jobs: check all, then show or submit."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelflow.reporting.formats import markdown
from pixelflow.runs.context import run_path, tracking_uri
from pixelflow.runs.folder import ROOT
from pixelflow.runs.identity import config_hash, evaluation_hash, slug
from pixelflow.runs.snapshot import take_snapshot
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.end import sweep_table
from pixelflow.sweeps.manifest import Sweep, SweepJob, submitting, sweep_digest
from pixelflow.sweeps.show import verdict
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.slurm import require_slurm
from pixelflow.sweeps.states import sweep_states
from pixelflow.sweeps.submission import RUN_JOBS, Planned, plan, submit
from pixelflow.sweeps.waiting import follow
from pixelflow.tracking.mlflow.children import schedule

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]


def launch(
    configs: Sequence[tuple[Config, list[str]]],
    *,
    axes: list[str],
    launcher: str,
    wait: bool,
    search: str | None = None,
    trials: Sequence[Any] = (),
) -> list[dict[str, Any]]:
    """Submit what is due. Returns nothing, or with `wait` each run's value or error.

    configs: resolved and valid, each with its overrides. search: the name of a search, which submits trial after trial
    to the same folder. trials: see `waiting.follow`.
    """
    first = configs[0][0]
    site = _site(first)
    if launcher == "slurm" and not first["dry_run"]:
        require_slurm()
    experiment = Path(first["runs_dir"]).absolute() / first["experiment"]
    names = [_identity(config) + config["job"]["name"] for config, _ in configs]
    digest = sweep_digest([search] if search else names)
    folder = Path(first["sweep"]).absolute() if first["sweep"] else experiment / f"sweep-{digest}"
    sweep = _sweep(folder, first, digest, axes)
    if first["dry_run"]:
        show_plan(plan([_job(config, overrides, folder) for config, overrides in configs], site), site, folder)
        sys.exit(0)
    _check_budget(site, len(configs))
    experiment.mkdir(parents=True, exist_ok=True)
    with submitting(experiment):
        sweep = _sweep(folder, first, digest, axes)  # another submitter may have been quicker
        jobs = [_job(config, overrides, folder) for config, overrides in configs]
        planned = plan(list({job.folder: (job, config) for job, config in jobs}.values()), site)
        due = [entry for entry in planned if entry.due]
        if due:
            start(sweep, planned, site, launcher, table=search is None)
    report(sweep, planned, launcher)
    if launcher == "local" and due:
        from pixelflow.sweeps.local import run_batch

        run_batch(sweep)
    results = follow(sweep, [job.name for job, _ in jobs], trials) if wait else []
    if search is None and (wait or not due):
        show_end(sweep)
    return results


def show_end(sweep: Sweep) -> None:
    """The table, once nothing is at work any more; leaves with 1 if a run is missing from it."""
    states = sweep_states(sweep)
    if any(state.active for state in states):
        return
    if table := sweep_table(sweep):
        print(f"\n{markdown(table)}\ntable: {sweep.folder / 'table.md'} (and .csv, .tex, .png)")
    for state in states:
        if state.state not in ("finished", "pruned"):
            print(f"{state.state}: {state.job.name}: {state.message}")
    if verdict(states):
        sys.exit(1)


def start(sweep: Sweep, planned: Sequence[Planned], site: Site, launcher: str, *, table: bool) -> None:
    """Freeze the code, announce the runs to MLflow, submit."""
    snapshot = take_snapshot(ROOT, sweep.folder.parent.parent / ".code", uncommitted=site.uncommitted)
    due = [entry for entry in planned if entry.due]
    submit(
        sweep, planned, site, snapshot, launcher=launcher, cwd=Path.cwd(), table=table,
        announce=lambda: announce(sweep, due),
    )  # fmt: skip


def announce(sweep: Sweep, due: Sequence[Planned]) -> None:
    """Experiment, parent and children in MLflow, before a job could want them."""
    config = due[0].config
    if not config["tracking"]["mlflow"] or due[0].job.job not in RUN_JOBS:
        return
    children = {entry.job.path: claim.tags for entry in due if (claim := read_claim(entry.job.path))}
    sweep.mlflow = schedule(
        children,
        uri=tracking_uri(config),
        experiment=config["experiment"],
        name=sweep.folder.name,
        parent_run_id=sweep.mlflow.get("parent_run_id"),
    )


def _site(config: Config) -> Site:
    return Site(**{key: value for key, value in config["site"].items() if key != "_target_"})


def _identity(config: Config) -> str:
    """Weights and evaluation together; job=train makes no evaluation."""
    return config_hash(config) + ("" if config["job"]["name"] == "train" else evaluation_hash(config))


def _job(config: Config, overrides: list[str], sweep: Path) -> tuple[SweepJob, Config]:
    """Where the run lies, and its config with that place in it."""
    job = config["job"]["name"]
    if job in RUN_JOBS:
        path = run_path(config, overrides)
    else:  # its results lie beside its checkpoint or samples; here lies how it went
        text = json.dumps([_identity(config), config["checkpoint"], config["samples"], config["job"]], sort_keys=True)
        path = sweep / "tasks" / f"{slug(overrides)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    config = {**config, "run_folder": str(path) if job in RUN_JOBS else None, "rerun": False}
    steps = config["trainer"]["max_steps"] if job in RUN_JOBS else 0
    return SweepJob(path.name, str(path), job, overrides, config_hash(config), steps), config


def _sweep(folder: Path, config: Config, digest: str, axes: list[str]) -> Sweep:
    if not folder.exists() or not any(folder.iterdir()):
        return Sweep(folder=folder, experiment=config["experiment"], digest=digest, axes=axes, paper=config["paper"])
    sweep = Sweep.load(folder)
    if sweep.digest != digest:
        raise ValueError(
            f"{folder} belongs to another config ({len(sweep.jobs)} runs of {sweep.experiment}): "
            "choose another folder with sweep=PATH, or leave sweep out; nothing was submitted"
        )
    sweep.axes, sweep.paper = axes, config["paper"]
    return sweep


def _check_budget(site: Site, count: int) -> None:
    if site.max_gpu_hours is not None and count * site.gpu_hours > site.max_gpu_hours:
        raise ValueError(
            f"{count} runs may use {count * site.gpu_hours:.1f} GPU hours, more than site.max_gpu_hours="
            f"{site.max_gpu_hours:g}: lower site.timeout_min, or raise the limit; nothing was submitted"
        )


def show_plan(planned: Sequence[Planned], site: Site, folder: Path) -> None:
    print(f"{'run':44} {'action':7} {'steps':>8} {'GPU hours':>10}  folder")
    for entry in planned:
        hours = site.gpu_hours if entry.due else 0.0
        print(f"{entry.job.name[:44]:44} {entry.action:7} {entry.job.max_steps:8} {hours:10.1f}  {entry.job.folder}")
        if entry.why not in ("new", "finished"):
            print(f"{'':44} {entry.why}")
    total = sum(site.gpu_hours for entry in planned if entry.due)
    due = sum(entry.due for entry in planned)
    where = f"{site.nodes} x {site.gpus_per_node} GPUs, {site.timeout_min} min in {site.partition or 'the default'}"
    print(f"{due} of {len(planned)} jobs ({where}), at most {total:.1f} GPU hours; nothing was submitted")
    print(f"sweep: {folder}")


def report(sweep: Sweep, planned: Sequence[Planned], launcher: str) -> None:
    counts = Counter(entry.action for entry in planned)
    print(", ".join(f"{number} {_past(action)}" for action, number in sorted(counts.items())))
    for entry in planned:
        if not entry.due and entry.why.startswith("failed"):
            print(f"  {entry.job.name}: {entry.why}")
    if launcher == "slurm" and sweep.submissions:
        last = sweep.submissions[-1]
        ids = sorted({job.split("_")[0] for job in (*last.jobs.values(), *last.then.values())})
        print(f"SLURM jobs  {' '.join(ids)}{f', table {last.table}' if last.table else ''}")
    print(f"sweep       {sweep.folder}\nstatus      python run.py job=status sweep={sweep.folder}")


def _past(action: str) -> str:
    return {"submit": "new", "resume": "to resume", "retry": "to try again", "skip": "left as they are"}[action]
