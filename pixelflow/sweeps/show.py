"""The states of a sweep's runs as lines on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.states import RunState


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
