"""Several processes of one task on this machine, without SLURM's srun."""

from __future__ import annotations

import math
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pixelflow.signals import CONTINUE

LAST_WORDS = 30.0
"""Seconds in which the other processes of a task can record the error of one of them, before they are killed."""


def ranks(environment: Mapping[str, str], size: int) -> list[dict[str, str]]:
    """Returns the environments of `size` processes of this machine that work together, with torchrun's variables."""
    if size == 1:
        return [dict(environment)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(size)}
    return [{**environment, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def wait_for_all(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for the processes of one task, and kills those that outlive the failure of another.

    After an error they have LAST_WORDS seconds to record it. After a kill they have no time: the connection that they
    have lost is not an error of the run.

    Returns:
        The return code of the process that failed first; otherwise the first one that is not 0, if any.
    """
    failed, deadline = 0, math.inf
    while None in [process.poll() for process in processes]:
        codes = [process.returncode for process in processes if process.returncode not in (None, 0, CONTINUE)]
        if codes and not failed:
            failed = min(codes)
            deadline = time.monotonic() + (LAST_WORDS if failed > 0 else 0)
        if time.monotonic() >= deadline:
            for process in processes:
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            next(process for process in processes if process.returncode is None).wait(0.1)
    return failed or next((process.returncode for process in processes if process.returncode), 0)
