"""job=status: how the runs of a sweep stand. Exit status 0 when all are finished or still going on, 1 otherwise."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelflow.launch.attempts import held, read_claim, read_status, record, write_status
from pixelflow.launch.states import RunState, sweep_states
from pixelflow.launch.sweep import Sweep, find_sweep
from pixelflow.tracking.jsonl import FILE_NAME, MetricsLog, Status, read_records

logger = logging.getLogger(__name__)

WATCH_SECONDS = 10.0


def run(config: Mapping[str, Any], overrides: list[str]) -> None:
    sweep = find_sweep(config["sweep"])
    while True:
        states = sweep_states(sweep)
        if end_dead_runs(states):
            states = sweep_states(sweep)
        if config["watch"] and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print_states(sweep, states)
        if not config["watch"] or not any(state.active for state in states):
            break
        time.sleep(WATCH_SECONDS)
        sweep = Sweep.load(sweep.folder)
    if verdict(states):
        sys.exit(verdict(states))


def verdict(states: Sequence[RunState]) -> int:
    """1 as soon as a run is neither finished nor on its way there."""
    return int(any(not state.active and state.state not in ("finished", "pruned") for state in states))


def print_states(sweep: Sweep, states: Sequence[RunState]) -> None:
    width = max([len(state.job.name) for state in states] + [3])
    print(f"{'run':{width}}  {'state':11} {'step':>15}  {'last':22} {'job':12} {'node':8} {'restarts':>8}  time left")
    for state in states:
        step = f"{state.step} of {state.max_steps}" if state.max_steps else ""
        print(
            f"{state.job.name:{width}}  {state.state:11} {step:>15}  {state.metric:22} {state.slurm:12} "
            f"{state.node:8} {state.restarts or '':>8}  {state.time_left}".rstrip()
        )
        if state.message and state.state not in ("finished", "running", "starting"):
            print(f"{'':{width}}  {state.message}")
        if state.state in ("failed", "lost"):
            print(f"{'':{width}}  log: {log_of(sweep, state)}")
    counts = Counter(state.state for state in states)
    print(", ".join(f"{number} {name}" for name, number in counts.most_common()) + f" of {len(states)}")


def log_of(sweep: Sweep, state: RunState) -> str:
    name = state.job.name if not state.slurm or state.slurm.startswith("pid ") else state.slurm
    return str(sweep.folder / "logs" / f"{name}.log")


def end_dead_runs(states: Sequence[RunState]) -> bool:
    """Write down the end of runs that were killed without a word, which their own records do not know.

    Returns whether there was one.
    """
    found = False
    for state in states:
        folder = state.job.path
        if state.state not in ("lost", "cancelled", "failed", "pruned") or not folder.is_dir():
            continue
        with held(folder) as ours:
            if not ours:
                continue
            if state.state in ("lost", "cancelled"):
                _end(folder, state)
                found = True
            tell_end(folder, "FAILED" if state.state == "failed" else "KILLED")
    return found


def tell_end(folder: Path, word: Status) -> None:
    """To metrics.jsonl, from where the next sync tells MLflow, unless the run has done so."""
    if (folder / "mlflow.json").exists() and last_end(folder) is None:
        with contextlib.suppress(OSError), MetricsLog(folder) as log:
            log.status(word)


def _end(folder: Path, state: RunState) -> None:
    claim = read_claim(folder)
    known = read_status(folder)
    lost = "it left the queue" if known.get("state") == "queued" else "its process ended without a word"
    message = "cancelled" if state.state == "cancelled" else lost
    new = "cancelled" if state.state == "cancelled" else "interrupted"
    if known.get("state") == new:
        return
    write_status(folder, new, message)
    if known.get("state") in ("starting", "running"):
        record(folder, "end", step=int(known.get("step") or 0), exit=None, outcome="interrupted",
               token=claim.token if claim else "")  # fmt: skip


def last_end(folder: Path) -> str | None:
    """The end that metrics.jsonl knows, if nothing was logged after it."""
    path = folder / FILE_NAME
    end = None
    for line, _ in read_records(path, warn=False) if path.exists() else ():
        end = line.get("status")
    return end
