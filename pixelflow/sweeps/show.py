"""Prints the plan of a sweep, what was submitted, and the states of its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pixelflow.sweeps.budget import gpu_hours
from pixelflow.sweeps.manifest import Submission, Sweep
from pixelflow.sweeps.plan import Planned
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import RunState
from pixelflow.terminal import one_line, say

ACTIONS = {"submit": "new", "resume": "to resume", "retry": "to try again", "skip": "left as they are",
           "follow": "after the jobs of another sweep", "later": "not submitted"}  # fmt: skip


def print_plan(planned: Sequence[Planned], site: Site, folder: Path, launcher: str) -> None:
    """Prints what a submission would do (`dry_run=true`)."""
    hours = [gpu_hours(entry, site, launcher) for entry in planned]
    say(f"{'run':44} {'action':7} {'steps':>8} {'GPU hours':>10}  folder")
    for entry, own in zip(planned, hours, strict=True):
        say(f"{entry.job.name[:44]:44} {entry.action:7} {entry.job.max_steps:8} {own:10.1f}  {entry.job.folder}")
        if entry.why not in ("new", "finished"):
            say(f"{'':44} {one_line(entry.why)}")
    due = sum(entry.due for entry in planned)
    where = f"{site.nodes} x {site.gpus} GPUs, {site.timeout_min} min in {site.partition or 'the default'}"
    say(f"{due} of {len(planned)} jobs ({where}), at most {sum(hours):.1f} GPU hours; nothing was submitted")
    say(f"sweep: {folder}")


def print_submission(sweep: Sweep, planned: Sequence[Planned]) -> None:
    """Prints what was submitted, and the command that shows the states."""
    counts = Counter(entry.action for entry in planned)
    say(", ".join(f"{number} {ACTIONS[action]}" for action, number in sorted(counts.items())))
    for entry in planned:
        if not entry.due and entry.why.startswith("failed"):
            say(f"  {entry.job.name}: {one_line(entry.why)}")
        if entry.action == "later":
            say(f"  {entry.job.name}: {entry.why}; repeat this command after it for the evaluations that are missing")
    if sweep.submissions:
        print_jobs(sweep.submissions[-1])
    say(f"sweep       {sweep.folder}\nstatus      python run.py job=status sweep={sweep.folder}")


def print_jobs(submission: Submission) -> None:
    """Prints the ids of the jobs in SLURM."""
    if submission.slurm_ids:
        table = f", table {submission.table}" if submission.table else ""
        say(f"SLURM jobs  {' '.join(submission.slurm_ids)}{table}")


def verdict(states: Sequence[RunState]) -> int:
    """Returns the exit status of a sweep: 1 when a run is neither finished, nor pruned, nor active."""
    return int(any(not state.active and state.state not in ("finished", "pruned") for state in states))


def print_states(sweep: Sweep, states: Sequence[RunState]) -> None:
    """Prints one line per run, with the message and the log of those that did not finish, and the totals."""
    width = max([len(state.job.name) for state in states] + [3])
    say(f"{'run':{width}}  {'state':11} {'step':>15}  {'last':22} {'job':12} {'node':8} {'restarts':>8}  time left")
    for state in states:
        step = f"{state.step} of {state.max_steps}" if state.max_steps else ""
        say(
            f"{state.job.name:{width}}  {state.state:11} {step:>15}  {state.metric:22} {state.slurm:12} "
            f"{state.node:8} {state.restarts or '':>8}  {state.time_left}".rstrip()
        )
        if state.message and state.state not in ("finished", "running", "starting"):
            say(f"{'':{width}}  {one_line(state.message)}")
        if state.state in ("failed", "lost"):
            say(f"{'':{width}}  log: {log_of(sweep, state)}")
    counts = Counter(state.state for state in states)
    say(", ".join(f"{number} {name}" for name, number in counts.most_common()) + f" of {len(states)}")


def log_of(sweep: Sweep, state: RunState) -> str:
    """Returns the path of the log of the run's newest job."""
    return str(sweep.logs / f"{state.slurm or state.job.name}.log")
