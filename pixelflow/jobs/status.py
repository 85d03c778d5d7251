"""job=status: the states of a sweep's runs. The exit status is 0 when all are finished or active, 1 otherwise.

It writes nothing, so that it can be used at any time and on the sweep of another user.
"""

from __future__ import annotations

import sys
import time

from pixelflow.config.job import Config, Job, NoOptions
from pixelflow.sweeps.manifest import Sweep, find_sweep
from pixelflow.sweeps.show import print_states, verdict
from pixelflow.sweeps.states import sweep_states
from pixelflow.terminal import clear_screen

WATCH_SECONDS = 10.0


def run(config: Config, options: NoOptions, overrides: list[str]) -> None:
    """Prints the states of the runs; with watch=true again and again while a run is active."""
    sweep = find_sweep(config["sweep"])
    while True:
        states = sweep_states(sweep)
        if config["watch"]:
            clear_screen()
        print_states(sweep, states)
        if not config["watch"] or not any(state.active for state in states):
            break
        time.sleep(WATCH_SECONDS)
        sweep = Sweep.load(sweep.folder)
    if verdict(states):
        sys.exit(verdict(states))


JOB = Job(
    name="status",
    help="the runs of a sweep: job=status sweep=runs/digits_kickoff watch=true",
    run=run,
    needs=frozenset({"sweep"}),
)
