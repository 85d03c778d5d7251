"""Features of many images, shared among processes, kept in parts on disk so that a stop loses little.

A part is a safetensors file of what some images left behind, written aside and renamed. The images that no part holds
are still to be measured, by however many processes the next start has.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelflow.errors import Interrupted
from pixelflow.metrics.suite import Suite
from pixelflow.processes import World, held
from pixelflow.signals import stop_signal

T = TypeVar("T")
SAVE_SECONDS = 60.0


class Parts:
    """The parts in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob("part_*.safetensors"))

    def missing(self, count: int) -> list[int]:
        """Numbers of the images that no part holds. Damaged parts and those half written are removed."""
        for aside in self.folder.glob(".part_*"):
            aside.unlink()
        there: set[int] = set()
        for path in self.paths():
            try:
                with safe_open(path, framework="pt") as file:
                    there.update(file.get_tensor("ids").tolist())
            except (SafetensorError, OSError):
                path.unlink()
        return [i for i in range(count) if i not in there]

    def write(self, suite: Suite) -> None:
        """What `suite` holds becomes a part; it starts anew."""
        if not suite.num_samples:
            return
        state = suite.state()
        path = self.folder / f"part_{int(state['ids'].min()):08d}_{len(state['ids'])}.safetensors"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(state, aside)
        aside.replace(path)
        suite.clear()

    def read_into(self, suite: Suite) -> None:
        for path in self.paths():
            suite.add_state(load_file(path))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def open_parts(folder: Path, world: World) -> Iterator[Parts]:
    """Held by one job at a time; a folder without parts goes again."""
    with held(folder, world):
        parts = Parts(folder)
        try:
            yield parts
        finally:
            if world.rank == 0 and not parts.paths():
                parts.remove()


class Accumulator:
    """Feeds a suite, and writes a part every SAVE_SECONDS. labels: (N,) of all images, or None."""

    def __init__(self, suite: Suite, parts: Parts, labels: Tensor | None) -> None:
        self.suite, self.parts, self.labels = suite, parts, labels
        self._saved = time.monotonic()

    def write(self, ids: Sequence[int], images: Tensor) -> None:
        """images: (B, C, H, W) uint8 on any device."""
        labels = None if self.labels is None else self.labels[torch.as_tensor(list(ids))]
        self.suite.update(images, labels, ids)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.parts.write(self.suite)
            self._saved = time.monotonic()


def accumulate(world: World, suite: Suite, parts: Parts, count: int, work: Callable[[], T]) -> list[T]:
    """Do everyone's share of the work; then the suite of rank 0 holds all `count` images. Returns everyone's results.

    If one fails, all end with its message; if one is stopped, all save and raise Interrupted.
    """
    result, message = None, None
    try:
        result = work()
    except (ValueError, OSError) as error:
        message = str(error)
    stopped = stop_signal() is not None
    told = world.gather((message, stopped))
    # Where some images are in parts already, of an earlier start or of this one, the others must join them.
    if world.size > 1 or parts.paths() or any(one for _, one in told):
        parts.write(suite)
    results = world.gather(result)
    for rank, (failure, _) in enumerate(told):
        if failure is not None:
            raise ValueError(failure if world.size == 1 else f"process {rank + 1} of {world.size}: {failure}")
    if world.rank == 0 and parts.paths():
        left = len(parts.missing(count))
        if left == 0:
            parts.read_into(suite)
    else:
        left = 0
    left = world.broadcast(left)
    if left:
        raise Interrupted(f"{count - left} of {count} images are measured")
    return results


def together(world: World, build: Callable[[], T]) -> T:
    """`build()` in every process, first in rank 0, which may leave something for the others; an error ends all."""
    built, message = None, None
    if world.rank == 0:
        try:
            built = build()
        except ValueError as error:
            message = str(error)
    if (message := world.broadcast(message)) is not None:
        raise ValueError(message)
    return build() if built is None else built
