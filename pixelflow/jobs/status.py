"""job=status: how the runs of a sweep stand. Exit status 0 when all are finished or still going on, 1 otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from pixelflow.sweeps.dead import end_dead_runs
from pixelflow.sweeps.manifest import Sweep, find_sweep
from pixelflow.sweeps.show import print_states, verdict
from pixelflow.sweeps.states import sweep_states

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
