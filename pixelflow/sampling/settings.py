"""The records that say which images are sampled, and how they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pixelflow.limits import at_least

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class SamplerSettings:
    """How images are computed. All but `cache_every` and `precision` change them by rounding errors at most.

    Args:
        batch_size: Images in a batch; or one number for each stage, since the coarse stages have room for more.
        fixed_batch: Number of images in a fixed group, or None. Samples 0..F-1, F..2F-1, ... are then always computed
            together, so that on a CPU every image has the same bits, whatever part of the images is asked for.
        precision: "fp32", or "bf16" for autocast.
        cache_every: Evaluations of the last stage between two that compute the middle blocks; 1 computes them always.
        compile: Whether the blocks of the backbone are compiled.
        cuda_graphs: Whether the coarse stages are replayed as CUDA graphs.
        tune_attention: Whether the fastest attention kernel of each stage is measured first.

    Raises:
        ValueError: A number is below 1.
    """

    batch_size: int | Sequence[int] = 250
    fixed_batch: int | None = None
    precision: Precision = "fp32"
    cache_every: int = 1
    compile: bool = False
    cuda_graphs: bool = False
    tune_attention: bool = False

    def __post_init__(self) -> None:
        sizes = [self.batch_size] if isinstance(self.batch_size, int) else list(self.batch_size)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        at_least(1, fixed_batch=self.fixed_batch, cache_every=self.cache_every)

    @property
    def stage_batch(self) -> list[int] | None:
        """The largest number of images that each stage integrates together, or None for the whole batch."""
        return None if isinstance(self.batch_size, int) else list(self.batch_size)

    @property
    def largest_batch(self) -> int:
        """Images that are drawn together."""
        return self.batch_size if isinstance(self.batch_size, int) else max(self.batch_size)


@dataclass(frozen=True)
class SampleSet:
    """The images 0..num_samples-1 of a seed. Sample i shows class `classes[i mod K]`.

    Args:
        num_samples: Number of images.
        classes: The K classes.
        seed: Seed of the noise.

    Raises:
        ValueError: num_samples is negative, or there is no class.
    """

    num_samples: int
    classes: Sequence[int]
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(0, num_samples=self.num_samples)
        if not self.classes:
            raise ValueError(f"classes={self.classes} must name at least one class")

    def labels_of(self, sample_ids: Sequence[int]) -> Tensor:
        """Returns the (B,) int64 class labels of some images. Ids beyond `num_samples` have labels as well."""
        return torch.tensor([self.classes[i % len(self.classes)] for i in sample_ids])

    @property
    def labels(self) -> Tensor:
        """The (N,) int64 class labels of all images: every class has N / K images, rounded up or down."""
        return torch.tensor(self.classes)[torch.arange(self.num_samples) % len(self.classes)]
