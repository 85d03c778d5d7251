"""From valid configs to jobs: what must run, who claims it, what is frozen, and what SLURM is given.

Why our own batch script rather than submitit's: submitit queues a pickled callable again only when its own handler
saw the signal, and the callable decides; a job that was requeued by SLURM, or killed, starts from the original pickle.
Here a job is data (a frozen config), so that every start is the same start, whoever caused it, and a supervisor
outside the task (supervisor.py) sees every way in which it can end.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import write_json, write_text
from pixelflow.runs.snapshot import Snapshot
from pixelflow.runs.status import read_status, write_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import CLAIM_NAME, Claim, read_claim
from pixelflow.sweeps.manifest import Submission, Sweep, SweepJob, new_token
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import PRUNED, RunState, live_jobs, run_state

TABLE_MINUTES = 30
RUN_JOBS = ("train", "pipeline")
"""Jobs that make a run folder."""


@dataclass(frozen=True)
class Planned:
    """A run of a sweep. config: resolved. action: submit, resume, retry, or skip; why: in a few words."""

    job: SweepJob
    config: Mapping[str, Any]
    action: str
    why: str

    @property
    def due(self) -> bool:
        return self.action != "skip"


def plan(jobs: Sequence[tuple[SweepJob, Mapping[str, Any]]], site: Site, *, again: bool = False) -> list[Planned]:
    """What each run needs now. again: whatever is not finished or at work, however often it failed."""
    claims = {job.name: read_claim(job.path) for job, _ in jobs}
    entries = live_jobs([claim for claim in claims.values() if claim])
    planned = []
    for job, config in jobs:
        action, why = _action(run_state(job, claims[job.name], entries), site, again)
        planned.append(Planned(job, config, action, why))
    return planned


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


def submit(
    sweep: Sweep,
    planned: Sequence[Planned],
    site: Site,
    snapshot: Snapshot,
    *,
    launcher: str,
    cwd: Path,
    table: bool = True,
    announce: Callable[[], None] = lambda: None,
) -> Submission:
    """Claim and freeze what is due, and give it to SLURM (launcher "slurm"); locally the caller runs it.

    table: whether a last job makes the sweep's table. announce: called when all is claimed and nothing submitted. The
    caller holds `submitting`. Raises WorkFailed or SlurmError; then nothing is left behind that was not submitted, and
    the message says what was.
    """
    due = [entry for entry in planned if entry.due]
    submission = Submission(
        token=new_token(), time=time.time(), user=getpass.getuser(), host=platform.node(),
        command=shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]), launcher=launcher,
        commit=snapshot.commit, snapshot=snapshot.path, uncommitted=bool(snapshot.diff),
    )  # fmt: skip
    folder = sweep.folder / "submissions" / submission.token
    with _undone_on_failure(sweep, due, folder) as keep:
        sweep.jobs |= {entry.job.name: entry.job for entry in planned}
        (sweep.folder / "logs").mkdir(parents=True, exist_ok=True)
        tags = differing_values({entry.job.name: entry.config for entry in planned})
        pid = f"pid {os.getpid()}" if launcher == "local" else ""
        for entry in due:
            _claim(sweep, entry, submission, tags[entry.job.name], pid)
        write_json(folder / "snapshot.json", asdict(snapshot))
        announce()
        sweep.submissions.append(submission)
        if launcher == "local":
            _write_batch(folder / "batch_0.json", due, site, snapshot, submission, due[0].job.job, cwd)
            sweep.save()
            return submission
        for part in chunks(due, min(site.max_array_size, slurm.array_limit() or site.max_array_size)):
            submission = _submit_part(sweep, part, site, snapshot, submission, cwd)
            keep(part)
    if table and due[0].job.job == "pipeline":
        _submit_table(sweep, site, snapshot, submission, cwd)
    return sweep.submissions[-1]


def _claim(sweep: Sweep, entry: Planned, submission: Submission, tags: dict[str, str], job: str) -> None:
    path = entry.job.path
    path.mkdir(parents=True, exist_ok=True)
    if entry.job.job in RUN_JOBS and not (path / "config.yaml").exists():
        write_text(path / "config.yaml", yaml.safe_dump(dict(entry.config), sort_keys=False))
    Claim(str(sweep.folder), submission.token, submission.user, submission.time, job, tags=tags).save(path)
    (path / PRUNED).unlink(missing_ok=True)
    if read_status(path).state in (None, "cancelled"):
        write_status(path, "queued")


@contextmanager
def _undone_on_failure(sweep: Sweep, due: Sequence[Planned], folder: Path) -> Iterator[Any]:
    """Undo the claims that led to no job. Yields a function that takes those that did."""
    before = {entry.job.name: read_claim(entry.job.path) for entry in due}
    fresh = {entry.job.name for entry in due if not entry.job.path.exists()}
    new_sweep, known, number = not sweep.folder.exists(), dict(sweep.jobs), len(sweep.submissions)
    kept: set[str] = set()
    try:
        yield lambda part: kept.update(entry.job.name for entry in part)
    except BaseException as error:
        for entry in due:
            if entry.job.name in kept:
                continue
            if entry.job.name in fresh:
                shutil.rmtree(entry.job.path, ignore_errors=True)
            elif claim := before[entry.job.name]:
                claim.save(entry.job.path)
            else:
                (entry.job.path / CLAIM_NAME).unlink(missing_ok=True)
        if not kept:
            shutil.rmtree(sweep.folder if new_sweep else folder, ignore_errors=True)
            sweep.jobs, sweep.submissions[number:] = known, []
        if isinstance(error, OSError | UserError | WorkFailed | slurm.SlurmError):
            ids = sorted({job.split("_")[0] for job in sweep.submissions[number].jobs.values()}) if kept else []
            what = (
                f"{len(kept)} of {len(due)} jobs were submitted before (SLURM jobs {', '.join(ids)}); the same command "
                "submits the others" if kept else "nothing was submitted"
            )  # fmt: skip
            raise type(error)(f"{error}: {what}") from error
        raise


def _submit_part(
    sweep: Sweep, part: Sequence[Planned], site: Site, snapshot: Snapshot, submission: Submission, cwd: Path
) -> Submission:
    """One array, and a second one that evaluates what the first has trained, each task after its own."""
    folder = sweep.folder / "submissions" / submission.token
    number = len(list(folder.glob("batch_*.json")))
    job = part[0].job.job
    split = job == "pipeline" and site.evaluation is not None
    batch = folder / f"batch_{number}.json"
    _write_batch(batch, part, site, snapshot, submission, "train" if split else job, cwd)
    ids = _sbatch(sweep, batch, site, snapshot, cwd, len(part))
    _remember(sweep, part, submission, ids, {})
    later: list[str] = []
    if split:
        second = replace(site, **{"gpus_per_node": 1, "nodes": 1, **(site.evaluation or {}), "evaluation": None})
        batch = folder / f"batch_{number + 1}.json"
        _write_batch(batch, part, second, snapshot, submission, job, cwd)
        later = _sbatch(sweep, batch, second, snapshot, cwd, len(part), f"aftercorr:{ids[0].split('_')[0]}")
    return _remember(sweep, part, submission, ids, dict(zip([e.job.name for e in part], later, strict=False)))


def _remember(
    sweep: Sweep, part: Sequence[Planned], submission: Submission, ids: list[str], then: dict[str, str]
) -> Submission:
    names = [entry.job.name for entry in part]
    known = next(entry for entry in sweep.submissions if entry.token == submission.token)
    known = replace(known, jobs=known.jobs | dict(zip(names, ids, strict=True)), then=known.then | then)
    sweep.submissions[-1] = known
    sweep.save()
    for entry, job in zip(part, ids, strict=True):
        claim = read_claim(entry.job.path)
        assert claim is not None
        replace(claim, job=job, then=then.get(entry.job.name, "")).save(entry.job.path)
    return known


def _write_batch(
    path: Path, part: Sequence[Planned], site: Site, snapshot: Snapshot, submission: Submission, job: str, cwd: Path
) -> None:
    """The frozen jobs, and the list by which a task of the array finds its own."""
    entries = []
    for entry in part:
        file = path.parent / path.stem / f"{entry.job.name}.json"
        config = {**entry.config, "job": {**entry.config["job"], "name": job}}
        write_json(file, {"config": config, "overrides": entry.job.overrides, "folder": entry.job.folder})
        entries.append({"name": entry.job.name, "file": str(file), "folder": entry.job.folder})
    write_json(
        path,
        {
            "token": submission.token, "job": job, "python": sys.executable, "snapshot": snapshot.path,
            "cwd": str(cwd), "site": asdict(site), "jobs": entries,
        },
    )  # fmt: skip


def _sbatch(
    sweep: Sweep, batch: Path, site: Site, snapshot: Snapshot, cwd: Path, count: int, dependency: str | None = None
) -> list[str]:
    """The jobs' numbers in SLURM."""
    limit = f"%{site.array_parallelism}" if site.array_parallelism else ""
    log, array = ("%A_%a", [f"#SBATCH --array=0-{count - 1}{limit}"]) if count > 1 else ("%j", [])
    command = [sys.executable, "-P", "-m", "pixelflow.sweeps.supervisor", str(batch)]
    script = _script(sweep, site, snapshot, cwd, f"{log}.log", array, command)
    write_text(batch.with_suffix(".sh"), script)
    job = slurm.submit(batch.with_suffix(".sh"), dependency=dependency)
    return [f"{job}_{index}" for index in range(count)] if count > 1 else [job]


def _submit_table(sweep: Sweep, site: Site, snapshot: Snapshot, submission: Submission, cwd: Path) -> None:
    """The job that ends the sweep: when all others are over, well or not, it writes the table and says what is
    missing. The jobs are submitted whether or not this works."""
    known = sweep.submissions[-1]
    ids = sorted({job.split("_")[0] for job in (*known.jobs.values(), *known.then.values())})
    small = replace(
        site, nodes=1, gpus_per_node=0, tasks_per_node=1, gres=None, constraint=None, timeout_min=TABLE_MINUTES,
        signal_delay_s=0,
    )  # fmt: skip
    command = [sys.executable, "-P", "-m", "pixelflow.sweeps.end", str(sweep.folder)]
    path = sweep.folder / "submissions" / submission.token / "table.sh"
    write_text(path, _script(sweep, small, snapshot, cwd, "table_%j.log", [], command))
    job = slurm.submit(path, dependency=f"afterany:{':'.join(ids)}")
    sweep.submissions[-1] = replace(known, table=job)
    sweep.save()


def _script(
    sweep: Sweep, site: Site, snapshot: Snapshot, cwd: Path, log: str, array: list[str], command: list[str]
) -> str:
    return "\n".join([
        "#!/bin/bash", f"#SBATCH --job-name={sweep.experiment}", f"#SBATCH --output={sweep.folder / 'logs' / log}",
        *site.sbatch_lines(), *array, f"export PYTHONPATH={shlex.quote(snapshot.path)}", f"cd {shlex.quote(str(cwd))}",
        *site.setup, f"exec {shlex.join(command)}", "",
    ])  # fmt: skip


def frozen_jobs(sweep: Sweep, names: Sequence[str]) -> list[tuple[SweepJob, dict[str, Any]]]:
    """The runs with the configs of their newest submission."""
    found = []
    for name in names:
        files = sorted(sweep.folder.glob(f"submissions/*/batch_*/{name}.json"))
        if not files:
            raise ValueError(f"{sweep.folder} has no frozen config of {name}: give the sweep's own command instead")
        config = json.loads(files[-1].read_text(encoding="utf-8"))["config"]
        job = sweep.jobs[name]
        found.append((job, {**config, "job": {**config["job"], "name": job.job}}))
    return found


def last_site(sweep: Sweep) -> tuple[dict[str, Any], Snapshot, Path]:
    """Of the newest submission: its queue settings, its code, and the folder in which it was given."""
    folder = sweep.folder / "submissions" / sweep.submissions[-1].token
    batch = json.loads((folder / "batch_0.json").read_text(encoding="utf-8"))
    snapshot = json.loads((folder / "snapshot.json").read_text(encoding="utf-8"))
    return batch["site"], Snapshot(**snapshot), Path(batch["cwd"])


def differing_values(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Of each run the values that are not the same in all: what tells it from its siblings."""
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


def chunks(entries: Sequence[Planned], size: int) -> Iterator[Sequence[Planned]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
