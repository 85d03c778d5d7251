"""The runs of a sweep that `job.runs` selects."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from pixelflow.errors import UserError
from pixelflow.sweeps.states import RunState

UNFINISHED = ("failed", "interrupted", "incomplete", "lost", "cancelled", "new", "pruned")
"""States of runs that are neither finished nor at work."""


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
    chosen: list[RunState] = []
    for entry in [runs] if isinstance(runs, str | int) else runs:
        if isinstance(entry, int):
            found = list(states[entry : entry + 1])
        else:
            found = [state for state in states if fnmatch.fnmatch(state.job.name, entry)]
        if not found:
            raise UserError(f"job.runs: {entry!r} is none of the sweep's {len(states)} runs; job=status lists them")
        chosen += [state for state in found if state not in chosen]
    return chosen
