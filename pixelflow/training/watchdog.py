"""Terminates this process when another rank hangs or has failed, and names that rank.

A process that waits in a collective operation cannot react. So a thread writes the progress of its process to the
job's store, and compares it with the progress of the others.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds in which a process should end by itself after another one failed, before it is terminated."""


class Watchdog:
    """Watches the processes of a job from a thread, within a `with` block.

    Every process calls `mark` at the same places of its work. So the others wait for the process with the fewest marks.

    Args:
        rank: Number of this process.
        size: Number of processes.
        store: The job's store.
        seconds: Time without a mark of this process after which it is terminated.
        on_end: Receives the message before the process is terminated.
        end: Terminates the process with an exit status.
    """

    def __init__(
        self,
        *,
        rank: int,
        size: int,
        store: Any,
        seconds: float,
        on_end: Callable[[str], None] = lambda message: None,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.rank, self.size, self.seconds, self.on_end, self.end = rank, size, seconds, on_end, end
        self._store = store.clone()
        self._count, self._what, self._moved = 0, "starting", time.monotonic()
        self._told = -1
        self._failed_since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mark(self, what: str) -> None:
        """Counts one step of progress. `what` describes the phase of work that begins."""
        self._count, self._what, self._moved = self._count + 1, what, time.monotonic()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self.seconds / 10)):
            try:
                self._tell()
                message = self._look()
            except RuntimeError as error:  # rank 0, which holds the store, has ended
                message = self._since_failure(f"process 1 of {self.size} ended: {error}")
            if message is not None and not self._stop.is_set():
                logger.error("%s", message)
                self.on_end(message)
                with suppress(RuntimeError):
                    self._store.compare_set("failure", "", message)  # otherwise the others see a lost connection only
                    self._store.set(f"left {self.rank}", "")
                self.end(1)
                return

    def _tell(self) -> None:
        if self._told != self._count:
            self._told = self._count
            self._store.set(f"at {self.rank}", f"{self._count}|{self._what}, on {socket.gethostname()}")

    def _look(self) -> str | None:
        """The reason to terminate the process, or None."""
        if self._store.check(["failure"]):
            return self._since_failure(self._store.get("failure").decode())
        waited = time.monotonic() - self._moved
        if waited < self.seconds:
            return None
        at = [self._store.get(f"at {rank}").decode().split("|", 1) for rank in range(self.size)]
        least = min(int(count) for count, _ in at)
        slow = [f"process {r + 1} of {self.size} ({what})" for r, (count, what) in enumerate(at) if int(count) == least]
        return f"no progress for {waited:.0f} s (stall_seconds={self.seconds:g}): the others wait for {', '.join(slow)}"

    def _since_failure(self, message: str) -> str | None:
        self._failed_since = self._failed_since or time.monotonic()
        return message if time.monotonic() - self._failed_since > GRACE else None
