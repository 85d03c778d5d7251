"""Checkpoints written in the background: tensors are copied to the host at once, and a thread writes the files.

Several processes write one checkpoint together: each its own tensor files, and rank 0 the rest. The threads exchange
messages through the job's store, because collective operations belong to the training.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.processes import World
from pixelflow.training.checkpoint import CheckpointStore, write_tensors

logger = logging.getLogger(__name__)

FAILURE_SECONDS = 30.0
"""Time in which all processes must complete a checkpoint after the run has failed."""

Entry = tuple[str, str, Tensor]
"""File stem, name and value of a tensor."""


class Saver:
    """Writes one checkpoint at a time. A failure is raised by the next `check`, `save` or `wait`.

    Args:
        store: The checkpoints of the run.
        world: The processes that write together.
        background: Whether `save` returns while a thread writes the files.
    """

    def __init__(self, store: CheckpointStore, *, world: World | None = None, background: bool = True) -> None:
        self.store, self.world, self.background = store, world or World(), background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._number = 0
        self._deadline = float("inf")

    def save(self, step: int, entries: Iterable[Entry], state: Mapping[str, Any]) -> None:
        """Copies a checkpoint to the host and begins to write it. All processes must call it.

        Args:
            step: Number of optimizer steps taken.
            entries: Whole tensors, equal in all processes; each process copies those that it writes.
            state: Plain JSON values.

        Raises:
            WorkFailed: The checkpoint before this one could not be written.
        """
        self.wait()
        mine = self._copy(entries)
        self._number += 1
        # The thread is no daemon, so the interpreter waits for it at exit.
        self._thread = threading.Thread(target=self._run, args=(step, mine, state), name="checkpoint")
        self._thread.start()
        if not self.background:
            self.wait()

    def check(self) -> None:
        """Raises the failure of the last checkpoint, if it has ended."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def give_up(self) -> None:
        """Completes the last checkpoint after the run has failed, or logs why it is not complete."""
        self._deadline = time.monotonic() + FAILURE_SECONDS
        if self._thread is not None and self._thread.is_alive():
            logger.info("completing the checkpoint that is being written")
        try:
            self.wait()
        except Exception as error:
            logger.error("%s", error)

    def wait(self) -> None:
        """Waits until the last checkpoint is written, and raises its failure."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _copy(self, entries: Iterable[Entry]) -> dict[str, dict[str, Tensor]]:
        """Copies this process's share to the host. Each tensor goes to the process with the fewest bytes."""
        mine: dict[str, dict[str, Tensor]] = {}
        load = [0] * self.world.size
        cuda = False
        for stem, name, value in entries:
            mine.setdefault(stem, {})
            owner = load.index(min(load))
            load[owner] += value.nbytes
            if owner == self.world.rank:
                cuda = cuda or value.is_cuda
                mine[stem][name] = _to_host(value)
        if cuda:
            torch.cuda.synchronize()  # once, at the end of all copies
        return mine

    def _run(self, step: int, tensors: dict[str, dict[str, Tensor]], state: Mapping[str, Any]) -> None:
        try:
            if self.world.size == 1:
                self.store.save(step, tensors, state)
            else:
                self._save_jointly(step, tensors, state)
        except BaseException as error:
            self._error = error

    def _save_jointly(self, step: int, tensors: dict[str, dict[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Rank 0 makes the folder, all write their files, rank 0 renames it and reports the result to all."""
        rank, size, store = self.world.rank, self.world.size, self.store
        messages = self.world.store.clone()  # a client of the store serves one thread at a time
        about = f"{store.folder.name} {self._number}"

        def receive(key: str) -> Any:
            while not messages.check([f"{about} {key}"]):
                if time.monotonic() > self._deadline:
                    raise WorkFailed(f"the checkpoint of step {step} was not finished: another process ended")
                time.sleep(0.02)
            return json.loads(messages.get(f"{about} {key}"))

        def send(key: str, value: Any) -> None:
            messages.set(f"{about} {key}", json.dumps(value))

        if rank == 0:
            aside = store.aside(step)
            try:
                store.begin(aside)
                send("begun", {"folder": str(aside)})
            except Exception as error:
                send("begun", {"error": f"process 1 of {size}: {error}"})
        begun = receive("begun")
        written: dict[str, Any] = dict(begun)
        if "error" not in begun:
            try:
                written = {"files": write_tensors(Path(begun["folder"]), tensors, part=f".{rank}-of-{size}")}
            except Exception as error:
                written = {"error": f"process {rank + 1} of {size}: {error}"}
        send(f"written {rank}", written)
        if rank == 0:
            send("done", self._finish(step, aside, [receive(f"written {other}") for other in range(size)], state))
        if message := receive("done").get("error"):
            raise WorkFailed(message)

    def _finish(self, step: int, aside: Path, parts: list[dict[str, Any]], state: Mapping[str, Any]) -> dict[str, str]:
        try:
            for part in parts:
                if "error" in part:
                    raise WorkFailed(part["error"])
            files = {name: about for part in parts for name, about in part["files"].items()}
            self.store.commit(step, aside, files, state)
        except Exception as error:
            return {"error": str(self.store.failed(step, aside, error))}
        return {}


def _to_host(value: Tensor) -> Tensor:
    if not value.is_cuda:
        return value.detach().clone()
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)  # torch's allocator reuses it
    return host.copy_(value.detach(), non_blocking=True)
