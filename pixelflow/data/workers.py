"""Processes that fill batches ahead of time and are replaced when they die or stall.

torch's DataLoader is not used: it reports a dead worker by an exception from a signal handler, in the middle of the
training step, cannot replace a worker, and allocates shared memory anew for every batch. Here the batches lie in slots
that are allocated once, so memory is `workers * depth` batches. A batch is a function of its position, so a new worker
fills the batches that the old one did not finish.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from pixelflow.errors import UserError, WorkFailed

logger = logging.getLogger(__name__)

Fill = Callable[[int, Tensor, Callable[[int], None]], Any]
"""`(position, slot (B, C, R, R) uint8, reading)` fills the slot and returns the labels and captions that belong to it;
it calls `reading(index)` before each sample."""

POLL_SECONDS = 1.0
INDEX, BEATS = 0, 1


_sign: Callable[[], None] = lambda: None  # noqa: E731 - set in a worker


def report_alive() -> None:
    """Marks this worker as alive. Long operations such as fetching a shard call it, so that they count as progress."""
    _sign()


class WorkerError(WorkFailed):
    """A batch could not be read in several attempts."""


@dataclass
class _Task:
    position: int
    slot: int
    worker: int


class WorkerPool:
    """Fills batches in worker processes and returns them in the order of `submit`.

    Args:
        fill: Fills one batch.
        describe: Names a sample by its index, for messages.
        shape: Shape (B, C, R, R) of a batch.
        workers: Number of processes, at least 1.
        depth: Number of batches that each worker keeps ready.
        stall_seconds: Seconds without progress after which a worker is replaced.
        retries: Number of further attempts to read a batch, with growing waits.
    """

    def __init__(
        self,
        *,
        fill: Fill,
        describe: Callable[[int], str],
        shape: tuple[int, ...],
        workers: int,
        depth: int,
        stall_seconds: float,
        retries: int,
    ) -> None:
        self.fill, self.describe = fill, describe
        self.stall_seconds, self.retries = stall_seconds, retries
        self.slots = torch.empty((workers * depth, *shape), dtype=torch.uint8).share_memory_()
        self.status = torch.full((workers, 2), -1, dtype=torch.int64).share_memory_()
        self._free = deque(range(workers * depth))
        self._tasks: deque[_Task] = deque()
        self._turn = 0
        # With fork, a source's list of a million files is shared with the workers and not copied.
        self._context = multiprocessing.get_context("fork")
        self._started = [self._start(worker) for worker in range(workers)]

    @property
    def capacity(self) -> int:
        """Number of batches that may be submitted and not yet returned."""
        return len(self.slots)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [process.pid for process, _ in self._started if process.pid is not None]

    def submit(self, position: int) -> None:
        """Asks a worker for the batch at `position`."""
        task = _Task(position, self._free.popleft(), self._turn)
        self._turn = (self._turn + 1) % len(self._started)
        self._tasks.append(task)
        self._send(task)

    def next(self) -> tuple[Tensor, Any]:
        """Returns the oldest batch that was submitted.

        Returns:
            Its slot, valid until the next `submit`, and the result of `fill`.

        Raises:
            WorkerError: The worker died or stalled in every attempt.
            UserError: The samples cannot be used.
            WorkFailed: The storage failed.
        """
        task = self._tasks[0]
        failures = 0
        while (answer := self._wait(task.worker)) is None:
            failures += 1
            trouble = self._trouble(task.worker)
            if failures > self.retries:
                raise WorkerError(f"{trouble}; tried {failures} times")
            pause = min(0.5 * 2 ** (failures - 1), 30.0)
            logger.warning("%s; starting it again in %.1f s", trouble, pause)
            self._stop(task.worker)
            time.sleep(pause)
            self._started[task.worker] = self._start(task.worker)
            for other in self._tasks:
                if other.worker == task.worker:
                    self._send(other)
        error, result = answer
        if error is not None:
            raise error
        self._tasks.popleft()
        self._free.append(task.slot)
        return self.slots[task.slot], result

    def close(self) -> None:
        """Stops all workers."""
        for worker in range(len(self._started)):
            self._stop(worker)

    def _wait(self, worker: int) -> tuple[Exception | None, Any] | None:
        """Returns the next answer of a worker, or None if it died or stalled."""
        process, connection = self._started[worker]
        seen, since = int(self.status[worker, BEATS]), time.monotonic()
        while True:
            ready = wait([connection, process.sentinel], timeout=min(POLL_SECONDS, self.stall_seconds))
            if connection in ready:
                try:
                    return connection.recv()
                except (EOFError, OSError):
                    return None
            if ready:
                return None
            if seen != (beats := int(self.status[worker, BEATS])):
                seen, since = beats, time.monotonic()
            elif time.monotonic() - since >= self.stall_seconds:
                return None

    def _trouble(self, worker: int) -> str:
        process, _ = self._started[worker]
        index = int(self.status[worker, INDEX])
        where = f" while reading {self.describe(index)}" if index >= 0 else ""
        process.join(0.1)
        if process.exitcode is None:
            return f"data worker {worker} made no progress for {self.stall_seconds:g} s{where}"
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        memory = " (out of memory? use fewer workers)" if code == -signal.SIGKILL else ""
        return f"data worker {worker} {how}{memory}{where}"

    def _start(self, worker: int) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        self.status[worker] = -1
        process = self._context.Process(
            target=_work, args=(self.fill, theirs, self.slots, self.status[worker]), daemon=True, name=f"data-{worker}"
        )
        process.start()
        theirs.close()
        return process, ours

    def _send(self, task: _Task) -> None:
        try:
            self._started[task.worker][1].send((task.position, task.slot))
        except OSError:
            logger.debug("data worker %d is gone; next() will replace it", task.worker)

    def _stop(self, worker: int) -> None:
        process, connection = self._started[worker]
        connection.close()
        process.kill()
        process.join()


def _work(fill: Fill, connection: Connection, slots: Tensor, status: Tensor) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the trainer stops its workers
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)  # not the handlers of the trainer
    torch.set_num_threads(1)
    parent = os.getppid()
    beats = status.numpy()

    def beat() -> None:
        beats[BEATS] += 1

    def reading(index: int) -> None:
        beats[INDEX] = index
        beat()

    global _sign
    _sign = beat

    while os.getppid() == parent:
        if not connection.poll(POLL_SECONDS):
            continue
        try:
            position, slot = connection.recv()
        except (EOFError, OSError):
            return
        error, result = None, None
        try:
            result = fill(position, slots[slot], reading)
        except Exception as caught:
            known = isinstance(caught, UserError | WorkFailed)
            error = caught if known else RuntimeError("in a data worker:\n" + traceback.format_exc())
        beats[INDEX] = -1
        try:
            connection.send((error, result))
        except OSError:
            return
