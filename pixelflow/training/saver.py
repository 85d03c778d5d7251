"""Checkpoints written beside training: copied to the host at once, put into files by a thread.

Several processes write one checkpoint together: each its own files, the first the rest. They speak through the job's
store, so that the thread never meets the collectives of training.
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

LAST_WORDS = 30.0
"""Seconds that a checkpoint gets to be finished by all processes when the run has failed."""

Entry = tuple[str, str, Tensor]
"""Stem, name and value."""


class Saver:
    """Writes one checkpoint at a time to `store`. A failure is raised by the next `check`, `save` or `wait`.

    background: beside training; otherwise `save` returns when it is written.
    """

    def __init__(self, store: CheckpointStore, *, world: World | None = None, background: bool = True) -> None:
        self.store, self.world, self.background = store, world or World(), background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._number = 0
        self._deadline = float("inf")

    def save(self, step: int, entries: Iterable[Entry], state: Mapping[str, Any]) -> None:
        """entries: whole tensors, one after the other, the same in each process; each copies those that it writes."""
        self.wait()
        mine = self._copy(entries)
        self._number += 1
        # No daemon: the interpreter waits for the thread, however it ends.
        self._thread = threading.Thread(target=self._run, args=(step, mine, state), name="checkpoint")
        self._thread.start()
        if not self.background:
            self.wait()

    def check(self) -> None:
        """Raise what went wrong, if it is known by now."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def give_up(self) -> None:
        """The run has failed: finish what can be finished, and log what cannot."""
        self._deadline = time.monotonic() + LAST_WORDS
        try:
            self.wait()
        except Exception as error:
            logger.error("%s", error)

    def wait(self) -> None:
        """Until it is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _copy(self, entries: Iterable[Entry]) -> dict[str, dict[str, Tensor]]:
        """This process's share, on the host: each tensor goes to whoever has the fewest bytes so far."""
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
        """Rank 0 makes the folder; all write; rank 0 gives it its name; all know how it ended."""
        rank, size, store = self.world.rank, self.world.size, self.store
        words = self.world.store.clone()  # a store's client serves one thread at a time

        about = f"{store.folder.name} {self._number}"

        def hear(key: str) -> Any:
            while not words.check([f"{about} {key}"]):
                if time.monotonic() > self._deadline:
                    raise WorkFailed(f"the checkpoint of step {step} was not finished: another process ended")
                time.sleep(0.02)
            return json.loads(words.get(f"{about} {key}"))

        def say(key: str, value: Any) -> None:
            words.set(f"{about} {key}", json.dumps(value))

        if rank == 0:
            aside = store.aside(step)
            try:
                store.begin(aside)
                say("begun", {"folder": str(aside)})
            except Exception as error:
                say("begun", {"error": f"process 1 of {size}: {error}"})
        begun = hear("begun")
        written: dict[str, Any] = dict(begun)
        if "error" not in begun:
            try:
                written = {"files": write_tensors(Path(begun["folder"]), tensors, part=f".{rank}-of-{size}")}
            except Exception as error:
                written = {"error": f"process {rank + 1} of {size}: {error}"}
        say(f"written {rank}", written)
        if rank == 0:
            say("done", self._finish(step, aside, [hear(f"written {other}") for other in range(size)], state))
        if message := hear("done").get("error"):
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
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)  # kept and reused by torch's allocator
    return host.copy_(value.detach(), non_blocking=True)
