"""The load that other programs put on the machines of a job while it works, which makes its timings longer."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Stretch:
    """The work of a machine and of one process of the job during an interval.

    Args:
        host: The name of the machine.
        wall: The length of the interval, in seconds.
        busy: The time for which the machine's cores worked, in seconds, summed over the cores.
        own: The CPU time of the process and of those of its children that have ended, in seconds.
    """

    host: str
    wall: float
    busy: float
    own: float


class Watch:
    """Observes the machine from its construction to `read`."""

    def __init__(self) -> None:
        self._start = _clocks()

    def read(self) -> Stretch:
        """Returns what has happened since the construction."""
        wall, busy, own = (end - start for start, end in zip(self._start, _clocks(), strict=True))
        return Stretch(socket.gethostname(), wall, busy, own)


def other_load(stretches: Sequence[Stretch]) -> float:
    """Returns the mean number of cores that programs other than the job kept busy; of several machines, the largest.

    Args:
        stretches: The observation of each process of the job, all of the same interval.
    """
    loads = [0.0]
    for host in {stretch.host for stretch in stretches}:
        here = [stretch for stretch in stretches if stretch.host == host and stretch.wall > 0]
        if here:
            busy = sum(stretch.busy / stretch.wall for stretch in here) / len(here)
            loads.append(busy - sum(stretch.own / stretch.wall for stretch in here))
    return max(loads)


def _clocks() -> tuple[float, float, float]:
    """The wall clock, the busy time of all cores, and the CPU time of this process."""
    machine, process = psutil.cpu_times(), psutil.Process().cpu_times()
    # A guest's time is part of the user's time on Linux. Waiting for the disk is idle time.
    idle = ("idle", "iowait", "guest", "guest_nice")
    busy = sum(seconds for name, seconds in machine._asdict().items() if name not in idle)
    own = process.user + process.system + process.children_user + process.children_system
    return time.monotonic(), busy, own
