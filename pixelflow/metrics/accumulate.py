"""Measures many images in several processes and keeps intermediate results on disk, so that a stop loses little.

A part is a safetensors file with the state of a suite after some of the images, written aside and renamed. Images that
no part holds are measured by the next start, which may have another number of processes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pixelflow.errors import Interrupted
from pixelflow.files import save_tensors, written_aside
from pixelflow.metrics.suite import Suite
from pixelflow.processes import World, held, shared_errors
from pixelflow.sampling.produce import Made
from pixelflow.sampling.shared import Work, work_in_shares

T = TypeVar("T")
SAVE_SECONDS = 60.0
"""Seconds of measuring between two parts."""


class Parts:
    """The parts of one evaluation.

    Args:
        folder: Folder of the files; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Returns the files of the parts."""
        return sorted(self.folder.glob("part_*.safetensors"))

    def missing(self, count: int) -> list[int]:
        """Returns those of the images 0..count-1 that no part holds. Damaged and unfinished files are removed."""
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
        """Writes the state of a suite as a part and clears the suite."""
        if not suite.num_samples:
            return
        state = suite.state()
        with written_aside(
            self.folder / f"part_{int(state['ids'].min()):08d}_{len(state['ids'])}.safetensors"
        ) as aside:
            save_tensors(state, aside)
        suite.clear()

    def read_into(self, suite: Suite) -> None:
        """Adds the states of all parts to a suite."""
        for path in self.paths():
            suite.add_state(load_file(path))

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def open_parts(folder: Path, world: World) -> Iterator[Parts]:
    """Locks the folder of parts for one job; a folder that holds no part is removed at the end."""
    with held(folder, world):
        parts = Parts(folder)
        try:
            yield parts
        finally:
            if world.rank == 0 and not parts.paths():
                parts.remove()


class Accumulator:
    """Passes images to a suite and writes a part every SAVE_SECONDS.

    Args:
        suite: The metrics.
        parts: Where parts are written.
        labels: Class labels of all images, (N,), or None.
    """

    def __init__(self, suite: Suite, parts: Parts, labels: Tensor | None) -> None:
        self.suite, self.parts, self.labels = suite, parts, labels
        self._saved = time.monotonic()

    def write(self, ids: Sequence[int], images: Tensor) -> None:
        """Measures images (B, C, H, W) uint8, on any device, with the given ids."""
        labels = None if self.labels is None else self.labels[torch.as_tensor(list(ids))]
        self.suite.update(images, labels, ids)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.parts.write(self.suite)
            self._saved = time.monotonic()


def accumulate(
    world: World,
    suite: Suite,
    parts: Parts,
    work: Work,
    *,
    missing: Sequence[int],
    count: int,
    fixed_batch: int | None = None,
) -> Made:
    """Measures the missing images in all processes; afterwards the suite of rank 0 holds all images.

    Args:
        world: The processes.
        suite: The metrics of this process.
        parts: Where intermediate results are kept.
        work: Passes images to the suite through an `Accumulator`.
        missing: Images that no part holds.
        count: Number of all images.
        fixed_batch: See `work_in_shares`.

    Returns:
        Number and costs of the images that this call measured.

    Raises:
        Interrupted: A process was asked to stop. What is measured is kept.
        ProcessFailed: Another process failed. What is measured is kept.
    """

    def kept(sample_ids: Sequence[int], *, on_batch: Callable[[int], None], stop: Callable[[], bool]) -> Made:
        try:
            return work(sample_ids, on_batch=on_batch, stop=stop)
        except Exception:
            parts.write(suite)
            raise

    done = work_in_shares(world, missing, kept, fixed_batch=fixed_batch)
    # Where some images are in parts already, of an earlier start or of this one, the others must join them.
    if world.size > 1 or parts.paths() or done.stopped:
        with shared_errors(world, wait=True):
            parts.write(suite)
    left = 0
    if world.rank == 0 and (parts.paths() or done.stopped):
        left = len(parts.missing(count))
        if left == 0:
            parts.read_into(suite)
    if left := world.broadcast(left):
        raise Interrupted(f"{count - left} of {count} images are measured")
    return done.made


def rank_0_first(world: World, build: Callable[[], T]) -> T:
    """Calls `build` in rank 0 and then in the other processes, which may use files that the first call writes."""
    built = None
    with shared_errors(world, wait=True):
        if world.rank == 0:
            built = build()
    return build() if built is None else built
