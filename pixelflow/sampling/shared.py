"""The loop that works on many images in several processes, whether they are drawn, written or measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from pixelflow.processes import World, shared_errors
from pixelflow.progress import Progress
from pixelflow.sampling.other_load import Watch, other_load
from pixelflow.sampling.produce import Made, produce, share
from pixelflow.sampling.sampler import Sampler
from pixelflow.sampling.settings import SamplerSettings, SampleSet
from pixelflow.signals import stop_signal


class Work(Protocol):
    """Works on some images. It calls `on_batch` after each batch and ends early when `stop` returns true."""

    def __call__(self, sample_ids: Sequence[int], *, on_batch: Callable[[int], None], stop: Callable[[], bool]) -> Made:
        """Works on the images `sample_ids` and returns their number and costs."""
        ...


@dataclass(frozen=True)
class Shared:
    """The result of all processes together.

    Args:
        made: Number and costs of the images.
        stopped: Whether any process was asked to stop.
    """

    made: Made
    stopped: bool


def work_in_shares(world: World, sample_ids: Sequence[int], work: Work, *, fixed_batch: int | None = None) -> Shared:
    """Divides images among the processes, shows the progress, and sums up the results.

    Args:
        world: The processes.
        sample_ids: Images to work on, in ascending order.
        work: Works on the share of this process. It must not communicate with the other processes.
        fixed_batch: Shares are cut between groups of this size.

    Returns:
        The sum over all processes, in every process.

    Raises:
        ProcessFailed: Another process failed. An error of this process is raised unchanged.
    """
    mine = share(sample_ids, rank=world.rank, size=world.size, fixed_batch=fixed_batch)
    progress = Progress(total=len(mine), unit="image")
    note = f"process 1 of {world.size}" if world.size > 1 else ""

    def on_batch(count: int) -> None:
        progress.advance(count, images=count)
        if world.rank == 0:
            progress.show(note)

    made, watch = Made(), Watch()
    with shared_errors(world, wait=True):
        try:
            if stop_signal() is None:
                made = work(mine, on_batch=on_batch, stop=lambda: stop_signal() is not None)
        finally:
            progress.close()
    # All processes leave the block together, so that they have observed the same interval.
    results = world.gather((made, watch.read(), stop_signal() is not None))
    total = sum((part for part, _, _ in results), Made())
    total = replace(total, other_load=other_load([stretch for _, stretch, _ in results]))
    return Shared(total, any(stopped for _, _, stopped in results))


def drawing(
    sampler: Sampler,
    write: Callable[[Sequence[int], Tensor], None],
    images: SampleSet,
    settings: SamplerSettings,
    *,
    aside: bool,
) -> Work:
    """Returns the work of drawing images and passing them to `write`; see `produce` for the arguments."""

    def work(sample_ids: Sequence[int], *, on_batch: Callable[[int], None], stop: Callable[[], bool]) -> Made:
        return produce(
            sampler, write, sample_ids, images=images, settings=settings, on_batch=on_batch, stop=stop, aside=aside
        )

    return work
