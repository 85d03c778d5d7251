"""Many images: which classes, which batches, and the loop that makes them.

Sample i is the same image whatever the batch, the process or the restart that makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelflow.sampling.sampler import Sampler, to_uint8
from pixelflow.sampling.store import AsideWriter
from pixelflow.types import Condition


def parse_classes(setting: str | Sequence[int], num_classes: int) -> list[int]:
    """ "balanced" for all classes, "10-19" for a range with both ends, or a list of classes.

    Raises ValueError, with the form that is accepted, for anything else.
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


def labels_of(classes: Sequence[int], num_samples: int) -> Tensor:
    """(N,) int64: sample i shows classes[i mod K], so every class has N / K images, give or take one."""
    return torch.tensor(classes)[torch.arange(num_samples) % len(classes)]


@dataclass(frozen=True)
class Planned:
    """A batch: sample_ids are computed together, those at the positions `wanted` are kept."""

    sample_ids: list[int]
    wanted: list[int]


def plan_batches(sample_ids: Sequence[int], *, batch_size: int, fixed_batch: int | None = None) -> Iterator[Planned]:
    """Batches that together hold each of sample_ids (rising) once.

    fixed_batch: samples 0..F-1, F..2F-1, ... are always computed together, all of them, whichever are wanted. So every
    forward pass has the same shape and every image the same place in it, and floating-point results the same bits.
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
    """The part of sample_ids that process `rank` of `size` makes: a contiguous piece, cut between blocks."""
    blocks = list(dict.fromkeys(i // (fixed_batch or 1) for i in sample_ids))
    mine = set(blocks[len(blocks) * rank // size : len(blocks) * (rank + 1) // size])
    return [i for i in sample_ids if i // (fixed_batch or 1) in mine]


@dataclass
class Made:
    """What a process did. nfe and passes are summed over its images."""

    images: int = 0
    seconds: float = 0.0
    nfe: float = 0.0
    passes: float = 0.0


def produce(
    sampler: Sampler,
    write: Callable[[Sequence[int], Tensor], None],
    sample_ids: Sequence[int],
    *,
    classes: Sequence[int],
    seed: int,
    batch_size: int,
    fixed_batch: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
    stop: Callable[[], bool] = lambda: False,
    aside: bool = True,
) -> Made:
    """Makes the images `sample_ids` and gives them to `write(ids, (B, C, R, R) uint8)`, beside the computation.

    aside: false writes in between instead, with the images where they were made, and leaves that out of the seconds.
    on_batch: told how many images a batch had. stop: asked after every batch; true ends it there. Raises what `write`
    raises, and ValueError for images that are not finite.
    """
    made, start, between = Made(), time.perf_counter(), 0.0
    with AsideWriter(write) as writer:
        for batch in plan_batches(sample_ids, batch_size=batch_size, fixed_batch=fixed_batch):
            labels = torch.tensor([classes[i % len(classes)] for i in batch.sample_ids])
            samples = sampler.sample(Condition(labels), sampler.keyed_noise(batch.sample_ids, seed))
            if not torch.isfinite(samples.x).all():
                ids = batch.sample_ids
                raise ValueError(f"samples {ids[0]} to {ids[-1]} are not finite; use an earlier checkpoint")
            images = to_uint8(samples.x)[batch.wanted]
            ids = [batch.sample_ids[position] for position in batch.wanted]
            if aside:
                writer.put(ids, images)
            else:
                begin = time.perf_counter()
                write(ids, images)
                between += time.perf_counter() - begin
            made.images += len(images)
            made.nfe += samples.nfe * len(images)
            made.passes += samples.passes * len(images)
            on_batch(len(images))
            if stop():
                break
    made.seconds = time.perf_counter() - start - between
    return made
