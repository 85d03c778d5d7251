"""All feature metrics of generated images, from one pass over the images.

The names of the metrics include the extractor (`fd_digits`, `kid_digits`); only Inception's distance is called `fid`.

Shape legend: B images of a batch, N all of them, C channels, H and W pixels, D features, K classes, S spatial features.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pixelflow.errors import UserError
from pixelflow.metrics.features import FeatureExtractor
from pixelflow.metrics.fid_infinity import frechet_at_infinity
from pixelflow.metrics.frechet import GaussianStatistics, frechet_distance
from pixelflow.metrics.inception_score import inception_score
from pixelflow.metrics.kid import kernel_distance
from pixelflow.metrics.precision_recall import precision_recall
from pixelflow.metrics.reference import Reference, extract, in_canonical_order

METRICS = (
    "frechet",
    "spatial_frechet",
    "inception_score",
    "kid",
    "precision_recall",
    "fid_infinity",
    "accuracy",
)


class Evaluator:
    """Collects the features of samples and compares them with a reference.

    The results do not depend on the order of the images, on the batches, or on the processes that measured them. The
    splits of the Inception score follow the numbers of the images.

    Args:
        features: The extractor, with its weights loaded.
        reference: A reference that was made with the same extractor.
        metrics: Names from METRICS; by default those of the extractor.
        k: Neighbours of precision and recall.
        kid_subset_size: See `pixelflow.metrics.kid.kernel_distance`.
        kid_num_subsets: See `pixelflow.metrics.kid.kernel_distance`.
        split_size: Samples per split of the Inception score.
        seed: Seed of the subsets of the kernel distance and of the distance at infinity.

    Raises:
        ValueError: A metric is unknown.
        UserError: The reference was made with another extractor, or it lacks what a metric needs.
    """

    def __init__(
        self,
        *,
        features: FeatureExtractor,
        reference: Reference,
        metrics: Collection[str] | None = None,
        k: int = 3,
        kid_subset_size: int = 1000,
        kid_num_subsets: int = 100,
        split_size: int = 5000,
        seed: int = 0,
    ) -> None:
        reference.check(features)
        self.metrics = tuple(features.metrics if metrics is None else metrics)
        if unknown := set(self.metrics) - set(METRICS):
            raise ValueError(f"metrics={sorted(unknown)} are none of {', '.join(METRICS)}")
        if reference.pool is None and (lacking := {"kid", "precision_recall"} & set(self.metrics)):
            raise UserError(f"reference {reference.name!r} has statistics but no images: {sorted(lacking)} need them")
        if reference.spatial is None and "spatial_frechet" in self.metrics:
            raise UserError(f"reference {reference.name!r} has no mu_s and sigma_s: sFID needs them")
        self.features, self.reference, self.k, self.seed = features, reference, k, seed
        self.kid_subset_size, self.kid_num_subsets, self.split_size = kid_subset_size, kid_num_subsets, split_size
        self.num_labelled = self.num_correct = 0
        self._ids: list[Tensor] = []
        self._pool: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._spatial = GaussianStatistics(num_features=features.num_spatial)

    @property
    def num_samples(self) -> int:
        """The number of images so far."""
        return sum(map(len, self._ids))

    def update(self, images: Tensor, labels: Tensor | None = None, ids: Sequence[int] | None = None) -> None:
        """Extracts and stores the features of a batch.

        Args:
            images: (B, C, H, W) uint8.
            labels: (B,) classes with which the images were sampled, or None.
            ids: Numbers of the images; by default they continue those of the previous batch.

        Raises:
            ValueError: The images are not uint8, a feature is not finite, or a label is not a class.
            UserError: The reference has another resolution.
        """
        if len(images):
            self.reference.check_resolution(images.shape[-1])
        features = extract(self.features, images)
        if labels is not None and features.logits is not None and "accuracy" in self.metrics:
            self._count_correct(features.logits, labels)
        start = self.num_samples
        self._ids.append(torch.arange(start, start + len(images)) if ids is None else torch.tensor(list(ids)))
        self._pool.append(features.pool.cpu())
        if "inception_score" in self.metrics:
            self._logits.append(features.logits.cpu())
        if "spatial_frechet" in self.metrics:
            self._spatial.update(features.spatial)

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
        """Adds the samples of another evaluator.

        Raises:
            ValueError: It has another reference or other metrics.
        """
        ours, theirs = self.reference, other.reference
        same = torch.equal(ours.statistics.mean, theirs.statistics.mean)
        if ours.extractor != theirs.extractor or self.metrics != other.metrics or not same:
            raise ValueError(
                f"cannot merge samples for reference {theirs.name!r} ({theirs.extractor}) "
                f"into those for {ours.name!r} ({ours.extractor})"
            )
        self.add_state(other.state())

    def state(self) -> dict[str, Tensor]:
        """Returns the stored features and counts, for `add_state`; empty without samples."""
        if not self._ids:
            return {}
        state = {"ids": torch.cat(self._ids), "pool": torch.cat(self._pool)}
        state["counts"] = torch.tensor([self.num_labelled, self.num_correct])
        if self._logits:
            state["logits"] = torch.cat(self._logits)
        if "spatial_frechet" in self.metrics:
            state |= {f"spatial.{key}": value for key, value in self._spatial.state().items()}
        return state

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds the state of another evaluator with the same metrics."""
        if not state:
            return
        self._ids.append(state["ids"])
        self._pool.append(state["pool"])
        self.num_labelled += int(state["counts"][0])
        self.num_correct += int(state["counts"][1])
        if "logits" in state:
            self._logits.append(state["logits"])
        spatial = {key.removeprefix("spatial."): value for key, value in state.items() if key.startswith("spatial.")}
        if spatial:
            self._spatial.merge(GaussianStatistics.from_state(spatial))

    def clear(self) -> None:
        """Discards all samples."""
        self._ids, self._pool, self._logits, self.num_labelled, self.num_correct = [], [], [], 0, 0
        self._spatial = GaussianStatistics(num_features=self.features.num_spatial)

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all samples by name.

        The names are fid, sfid, inception_score, fid_infinity, kid, kid_std, kid_se, precision, recall, num_samples and
        accuracy. With an extractor other than Inception, fid, fid_infinity and kid are fd_*, fd_infinity_* and kid_*,
        where * is the extractor's short name. The accuracy is the fraction of samples whose predicted class is their
        label; it is given only if all samples have labels.

        Raises:
            UserError: There are at most k samples or reference images.
        """
        self._check_counts()
        pool, wanted = in_canonical_order(torch.cat(self._pool)), self.metrics
        metrics: dict[str, float] = {}
        if "frechet" in wanted:
            metrics[self._name("fid")] = frechet_distance(_statistics(pool), self.reference.statistics)
        if "spatial_frechet" in wanted:
            assert self.reference.spatial is not None
            metrics["sfid"] = frechet_distance(self._spatial, self.reference.spatial)
        if "inception_score" in wanted:
            metrics["inception_score"] = self._inception_score()
        if "fid_infinity" in wanted:
            metrics[self._name("fid_infinity")] = frechet_at_infinity(pool, self.reference.statistics, seed=self.seed)
        if "kid" in wanted:
            metrics |= self._kid(pool)
        if "precision_recall" in wanted:
            assert self.reference.pool is not None
            device = getattr(self.features, "device", "cpu")
            metrics["precision"], metrics["recall"] = precision_recall(
                pool, self.reference.pool, k=self.k, device=device
            )
        metrics["num_samples"] = float(self.num_samples)
        if "accuracy" in wanted and self.num_labelled == self.num_samples:
            metrics["accuracy"] = self.num_correct / self.num_samples
        return metrics

    def _check_counts(self) -> None:
        counted: list[tuple[str, int]] = [("samples", self.num_samples)]
        if self.reference.pool is not None:
            counted.append(("reference images", len(self.reference.pool)))
        for what, count in counted:
            if count <= self.k:
                raise UserError(f"{count} {what} are too few: precision and recall need at least {self.k + 1}")

    def _name(self, name: str) -> str:
        """The name of a metric with the extractor's suffix: `fid` becomes `fd_digits`."""
        short = self.features.short
        return f"{name.replace('fid', 'fd')}_{short}" if short else name

    def _inception_score(self) -> float:
        order = torch.cat(self._ids).argsort(stable=True)
        probabilities = torch.cat(self._logits)[order].double().softmax(dim=1)
        return inception_score(probabilities, split_size=self.split_size)

    def _kid(self, pool: Tensor) -> dict[str, float]:
        assert self.reference.pool is not None
        mean, deviation = kernel_distance(
            pool, self.reference.pool,
            subset_size=self.kid_subset_size, num_subsets=self.kid_num_subsets, seed=self.seed,
        )  # fmt: skip
        name = self._name("kid")
        metrics = {name: mean, f"{name}_std": deviation}
        if self.kid_num_subsets > 1:
            metrics[f"{name}_se"] = deviation / math.sqrt(self.kid_num_subsets - 1)
        return metrics

    def record(self) -> dict[str, Any]:
        """Returns the extractor, its weights and preprocessing, and the reference, for the evaluation's record."""
        reference = self.reference
        return {
            "features": self.features.name,
            "weights_of_features": self.features.fingerprint,
            "preprocessing": self.features.preprocessing,
            "reference": reference.name,
            "reference_content": reference.content,
            "reference_images": reference.num_images,
            "reference_images_of_precision_recall": None if reference.pool is None else len(reference.pool),
        }


def _statistics(pool: Tensor) -> GaussianStatistics:
    statistics = GaussianStatistics(num_features=pool.shape[1])
    statistics.update(pool)
    return statistics
