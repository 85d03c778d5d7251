"""Draws many images: their classes, their batches, and the share of each process.

Sample i is the same image for every batch size, number of processes and restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.nn.flops import tflop
from pixelflow.sampling.sampler import Sampler, to_uint8
from pixelflow.sampling.settings import SamplerSettings, SampleSet
from pixelflow.sampling.store import AsideWriter
from pixelflow.types import Condition


def parse_classes(setting: str | Sequence[int], num_classes: int) -> list[int]:
    """Reads a choice of classes.

    Args:
        setting: "balanced" for all classes, "10-19" for a range that includes both ends, or a list of classes.
        num_classes: Number of classes of the model.

    Returns:
        The classes.

    Raises:
        ValueError: The setting has another form, or names classes that do not exist.

    Examples:
        >>> parse_classes("1-3", 10)
        [1, 2, 3]
    """
    accepted = f"balanced, a range like 0-{num_classes - 1}, or a list like [0, {num_classes - 1}]"
    if isinstance(setting, str):
        if setting == "balanced":
            return list(range(num_classes))
        first, dash, last = setting.partition("-")
        if not (dash and first.isdecimal() and last.isdecimal()):
            raise ValueError(f"classes={setting} must be {accepted}")
        classes = list(range(int(first), int(last) + 1))
    else:
        classes = list(setting)
    if not classes or not all(0 <= c < num_classes for c in classes):
        raise ValueError(f"classes={setting} must name classes in 0..{num_classes - 1}: {accepted}")
    return classes


@dataclass(frozen=True)
class Planned:
    """A batch: all of `sample_ids` are computed together, and those at the positions `wanted` are kept."""

    sample_ids: list[int]
    wanted: list[int]


def plan_batches(sample_ids: Sequence[int], *, batch_size: int, fixed_batch: int | None = None) -> Iterator[Planned]:
    """Yields batches in which each of `sample_ids` is kept once.

    Args:
        sample_ids: Ids in ascending order.
        batch_size: Images in a batch without `fixed_batch`.
        fixed_batch: If given, samples 0..F-1, F..2F-1, ... are always computed together, all of them, whichever are
            kept. Every forward pass then has the same shape and every image the same position in it, so that
            floating-point results have the same bits.
    """
    if fixed_batch is None:
        for start in range(0, len(sample_ids), batch_size):
            ids = list(sample_ids[start : start + batch_size])
            yield Planned(ids, list(range(len(ids))))
        return
    blocks: dict[int, list[int]] = {}
    for i in sample_ids:
        blocks.setdefault(i // fixed_batch, []).append(i % fixed_batch)
    for block, wanted in blocks.items():
        yield Planned(list(range(block * fixed_batch, (block + 1) * fixed_batch)), wanted)


def share(sample_ids: Sequence[int], *, rank: int, size: int, fixed_batch: int | None = None) -> list[int]:
    """Returns the part of `sample_ids` that process `rank` of `size` computes, contiguous, in whole fixed batches."""
    blocks = list(dict.fromkeys(i // (fixed_batch or 1) for i in sample_ids))
    mine = set(blocks[len(blocks) * rank // size : len(blocks) * (rank + 1) // size])
    return [i for i in sample_ids if i // (fixed_batch or 1) in mine]


@dataclass
class Made:
    """Images that were drawn, and their cost.

    Args:
        images: Number of images.
        seconds: Seconds of the device.
        nfe: Velocity evaluations, summed over the images.
        stage_passes: Forward passes of single images in each stage; empty without images.
        other_load: Mean number of CPU cores that other programs kept busy meanwhile; None where it is not known.
    """

    images: int = 0
    seconds: float = 0.0
    nfe: float = 0.0
    stage_passes: tuple[float, ...] = ()
    other_load: float | None = None

    def __add__(self, other: Made) -> Made:
        """Returns the images and costs of both, without a load."""
        passes = zip_longest(self.stage_passes, other.stage_passes, fillvalue=0.0)
        return Made(
            self.images + other.images, self.seconds + other.seconds, self.nfe + other.nfe,
            tuple(mine + theirs for mine, theirs in passes),
        )  # fmt: skip

    @property
    def passes(self) -> float:
        """Forward passes of single images, over all stages."""
        return sum(self.stage_passes)

    def per_image(self, flops: Sequence[int]) -> dict[str, float]:
        """Returns the costs per image, the number of images and the other load, or nothing if there are no images.

        Args:
            flops: Floating-point operations of one forward pass in each stage, see `pixelflow.nn.flops.stage_flops`.
        """
        if not self.images:
            return {}
        costs = {
            "nfe": self.nfe, "forward_passes_per_image": self.passes,
            "tflop_per_image": tflop(self.stage_passes, flops), "seconds_per_image": self.seconds,
        }  # fmt: skip
        load = {} if self.other_load is None else {"other_load": self.other_load}
        return {key: cost / self.images for key, cost in costs.items()} | {"images_timed": self.images} | load


def produce(
    sampler: Sampler,
    write: Callable[[Sequence[int], Tensor], None],
    sample_ids: Sequence[int],
    *,
    images: SampleSet,
    settings: SamplerSettings,
    on_batch: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
    aside: bool = True,
) -> Made:
    """Draws images and passes them to `write(ids, images)`.

    Args:
        sampler: Draws a batch.
        write: Receives the ids and the images, (B, C, R, R) uint8.
        sample_ids: Images to draw, in ascending order.
        images: The set that they belong to; it gives labels and seed.
        settings: Gives the batches.
        on_batch: Called after each batch with its number of images.
        stop: Called after each batch; true ends the loop.
        aside: Whether `write` runs in a thread beside the computation, with images on the CPU. Otherwise it runs
            between two batches, with images on the device, and its time is not counted.

    Returns:
        Number and costs of the images that were drawn.

    Raises:
        WorkFailed: An image is not finite.
    """
    made, start, between = Made(), time.perf_counter(), 0.0
    batches = plan_batches(sample_ids, batch_size=settings.largest_batch, fixed_batch=settings.fixed_batch)
    with AsideWriter(write) as writer:
        for batch in batches:
            noise = sampler.keyed_noise(batch.sample_ids, images.seed)
            samples = sampler.sample(Condition(images.labels_of(batch.sample_ids)), noise)
            if not torch.isfinite(samples.x).all():
                first, last = batch.sample_ids[0], batch.sample_ids[-1]
                raise WorkFailed(f"samples {first} to {last} are not finite; use an earlier checkpoint")
            pixels = to_uint8(samples.x)[batch.wanted]
            ids = [batch.sample_ids[position] for position in batch.wanted]
            if aside:
                writer.put(ids, pixels)
            else:
                begin = time.perf_counter()
                write(ids, pixels)
                between += time.perf_counter() - begin
            count = len(pixels)
            made += Made(count, 0.0, samples.nfe * count, tuple(passes * count for passes in samples.stage_passes))
            on_batch(count)
            if stop():
                break
    made.seconds = time.perf_counter() - start - between
    return made
