"""Measures what a large sweep costs on a real SLURM, in processor time, which a busy machine stretches less.

    PIXELFLOW_RUNS=1000 python -m pytest -n0 -s -m slurm tests/slurm/test_scale.py

prints the figures of docs/sweeps.md. By default there are 200 runs.
"""

from __future__ import annotations

import os
import resource
import time

import pytest

from pixelflow.sweeps.manifest import Sweep
from tests.slurm.cluster import Cluster
from tests.slurm.test_sweep import SLURM, TINY, Checkout, active, checkout, closed  # noqa: F401

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

RUNS = int(os.environ.get("PIXELFLOW_RUNS", "200"))


class Watch:
    """Seconds of the processes that were started and have ended."""

    def __init__(self) -> None:
        self.processor, self.wall = self._used(), time.monotonic()

    def _used(self) -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def lap(self, what: str) -> float:
        seconds = self._used() - self.processor
        print(f"{what}: {seconds:.1f} s of processor time, {time.monotonic() - self.wall:.1f} s")
        self.processor, self.wall = self._used(), time.monotonic()
        return seconds


def test_a_large_sweep(closed: Cluster, checkout: Checkout) -> None:  # noqa: F811
    """Each run has another learning rate, so that no two configs are equal. A third of them fits into an array."""
    rates = ",".join(f"{1e-4 * (1 + number / RUNS):.8f}" for number in range(RUNS))
    sweep = [*SLURM, f"optimizer.lr={rates}", *TINY, f"site.max_array_size={-(-RUNS // 3)}", "tracking=none"]
    watch = Watch()
    checkout.run(*sweep)
    submission = watch.lap(f"submission of {RUNS} runs")
    status = checkout.run("job=status", "sweep=runs/quickstart")
    refresh = watch.lap("job=status")
    again = checkout.run(*sweep)
    repeated = watch.lap("the same command again")
    assert f"{RUNS} queued of {RUNS}" in status and f"{RUNS} left as they are" in again
    assert len(Sweep.load(checkout.sweep()).submissions[0].slurm_ids) == 3
    assert len(active()) == RUNS + 1  # and the job of the table
    checkout.run("job=cancel", "sweep=runs/quickstart")
    watch.lap("job=cancel")
    assert max(submission, repeated) <= 10 + 0.05 * RUNS and refresh <= 5
