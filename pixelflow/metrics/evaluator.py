"""One pass over generated images, every feature metric at the end.

Names carry the extractor (`fd_digits`, `kid_digits`): none of these is an FID, which is defined on Inception.

Shape legend: B images of a batch, N all of them, C channels, H and W pixels, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelflow.metrics.features import FeatureExtractor, Features
from pixelflow.metrics.frechet import GaussianStatistics, frechet_distance, require_finite
from pixelflow.metrics.kid import kernel_distance
from pixelflow.metrics.precision_recall import precision_recall


@dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    name: goes into the record, such as "digits train, 16 px, 1500 images". extractor: name of the extractor.
    pool: (N, D) float32 on the CPU, in an order that does not depend on that of the images. statistics: of pool.
    """

    name: str
    extractor: str
    pool: Tensor
    statistics: GaussianStatistics

    @classmethod
    def from_images(cls, extractor: FeatureExtractor, batches: Iterable[Tensor], *, name: str) -> Reference:
        """batches: (B, C, H, W) uint8 each. Raises ValueError for other types, no images or non-finite features."""
        pools = [_extract(extractor, images).pool.cpu() for images in batches]
        if not pools:
            raise ValueError(f"reference {name!r} has no images")
        pool = _in_canonical_order(torch.cat(pools))
        return cls(name=name, extractor=extractor.name, pool=pool, statistics=_statistics(pool))


class Evaluator:
    """Collects the features of samples and compares them with a reference.

    features: the extractor. reference: made with the same extractor. k: neighbours of precision and recall.
    kid_subset_size, kid_num_subsets, seed: see `kernel_distance`.
    What it computes does not depend on the order, the batches or the parts in which images came.
    Raises ValueError where the reference was made with another extractor.
    """

    def __init__(
        self,
        *,
        features: FeatureExtractor,
        reference: Reference,
        k: int = 3,
        kid_subset_size: int = 1000,
        kid_num_subsets: int = 100,
        seed: int = 0,
    ) -> None:
        if reference.extractor != features.name:
            raise ValueError(
                f"reference {reference.name!r} holds features of {reference.extractor!r}, "
                f"but samples would be measured with {features.name!r}: make the reference anew"
            )
        self.features, self.reference, self.k, self.seed = features, reference, k, seed
        self.kid_subset_size, self.kid_num_subsets = kid_subset_size, kid_num_subsets
        self.num_labelled = self.num_correct = 0
        self._pool: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        return sum(len(pool) for pool in self._pool)

    def update(self, images: Tensor, labels: Tensor | None = None) -> None:
        """images: (B, C, H, W) uint8. labels: (B,) what each was asked to show, or None.

        Raises ValueError for images of another type, non-finite features and labels that name no class.
        """
        features = _extract(self.features, images)
        require_finite(features.pool)
        if labels is not None and features.logits is not None:
            self._count_correct(features.logits, labels)
        self._pool.append(features.pool.cpu())

    def _count_correct(self, logits: Tensor, labels: Tensor) -> None:
        num_classes = logits.shape[1]
        if labels.shape != logits.shape[:1] or ((labels < 0) | (labels >= num_classes)).any():
            raise ValueError(
                f"labels must be {len(logits)} classes in 0..{num_classes - 1}, "
                f"got shape {tuple(labels.shape)} with values {labels.unique().tolist()}"
            )
        self.num_labelled += len(labels)
        self.num_correct += int((logits.argmax(dim=1) == labels.to(logits.device)).sum())

    def merge(self, other: Evaluator) -> None:
        """Takes in the samples of another evaluator. Raises ValueError unless it has the same reference."""
        ours, theirs = self.reference, other.reference
        if ours.extractor != theirs.extractor or not torch.equal(ours.pool, theirs.pool):
            raise ValueError(
                f"cannot merge samples for reference {theirs.name!r} ({theirs.extractor}, {len(theirs.pool)} images) "
                f"into those for {ours.name!r} ({ours.extractor}, {len(ours.pool)} images)"
            )
        self._pool.extend(other._pool)
        self.num_labelled += other.num_labelled
        self.num_correct += other.num_correct

    def compute(self) -> dict[str, float]:
        """fd_*, kid_*, kid_*_std (* the extractor's short name), precision, recall, num_samples, and accuracy, the
        share of samples whose predicted class is their label, where all of them came with labels.

        Raises ValueError for no more than k samples or references.
        """
        for what, count in (("samples", self.num_samples), ("reference images", len(self.reference.pool))):
            if count <= self.k:
                raise ValueError(f"{count} {what} are too few: precision and recall need at least {self.k + 1}")
        pool = _in_canonical_order(torch.cat(self._pool))
        short = self.features.short
        kid, kid_std = kernel_distance(
            pool,
            self.reference.pool,
            subset_size=self.kid_subset_size,
            num_subsets=self.kid_num_subsets,
            seed=self.seed,
        )
        precision, recall = precision_recall(pool, self.reference.pool, k=self.k)
        metrics = {
            f"fd_{short}": frechet_distance(_statistics(pool), self.reference.statistics),
            f"kid_{short}": kid,
            f"kid_{short}_std": kid_std,
            "precision": precision,
            "recall": recall,
            "num_samples": float(self.num_samples),
        }
        if self.num_labelled == self.num_samples:
            metrics["accuracy"] = self.num_correct / self.num_samples
        return metrics


def _extract(extractor: FeatureExtractor, images: Tensor) -> Features:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 (B, C, H, W), got {images.dtype} {tuple(images.shape)}; "
            "pixelflow.sampling.to_uint8 converts images in [-1, 1]"
        )
    return extractor(images)


def _statistics(pool: Tensor) -> GaussianStatistics:
    statistics = GaussianStatistics(num_features=pool.shape[1])
    statistics.update(pool)
    return statistics


def _in_canonical_order(pool: Tensor) -> Tensor:
    """pool (N, D) sorted by the sum of each row: the subsets of the kernel distance are drawn by position."""
    return pool[pool.double().sum(dim=1).argsort(stable=True)]
