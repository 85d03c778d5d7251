"""Fréchet distance between two sets of features, each taken as a Gaussian (Dowson & Landau 1982; Heusel et al. 2017).

    d = |mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2))

It is an FID only on features of the 2015 Inception; elsewhere name it after its features.

Shape legend: B samples of a batch, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BLOCK = 1024
"""Rows that are taken in together; fewer wait for more, so that small batches cost no more than large ones."""


@dataclass(frozen=True)
class StoredStatistics:
    """mean: (D,) and covariance: (D, D), N-1, float64: of features that are not at hand, as in the ADM suite's .npz.

    Raises ValueError where they do not fit each other or hold NaN or infinity.
    """

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        width = self.num_features
        if self.mean.shape != (width,) or self.covariance.shape != (width, width):
            raise ValueError(f"mean of {tuple(self.mean.shape)} and covariance of {tuple(self.covariance.shape)}")
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.covariance).all()):
            raise ValueError("mean or covariance holds NaN or infinity")

    @property
    def num_features(self) -> int:
        return len(self.mean)


class GaussianStatistics:
    """Mean and covariance (N-1) of a stream of features, in float64 on the CPU.

    Blocks and parts are combined by their means and scatters (Chan, Golub & LeVeque 1983), so batch size
    and order change nothing beyond rounding, and no large sums cancel.
    """

    def __init__(self, *, num_features: int) -> None:
        self.num_features = num_features
        self._count = 0
        self._mean = torch.zeros(num_features, dtype=torch.float64)
        self._scatter = torch.zeros(num_features, num_features, dtype=torch.float64)
        self._waiting: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """features: (B, D), any floating type. Raises ValueError for another width and for NaN or infinity."""
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(f"features of shape {tuple(features.shape)}: expected (B, {self.num_features})")
        require_finite(features)
        if len(features) == 0:
            return
        self._waiting.append(features.detach().cpu())
        if sum(map(len, self._waiting)) >= BLOCK:
            self._take_in()

    def merge(self, other: GaussianStatistics) -> None:
        """Takes in what another one has seen. Raises ValueError where the widths differ."""
        if other.num_features != self.num_features:
            raise ValueError(f"cannot merge statistics of {other.num_features} and {self.num_features} features")
        self._take_in()
        other._take_in()
        if other._count:
            self._combine(other._count, other._mean, other._scatter)

    def state(self) -> dict[str, Tensor]:
        """For `from_state`: count, mean and scatter."""
        self._take_in()
        return {"count": torch.tensor(self._count), "mean": self._mean, "scatter": self._scatter}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> GaussianStatistics:
        statistics = cls(num_features=len(state["mean"]))
        statistics._count = int(state["count"])
        statistics._mean, statistics._scatter = state["mean"], state["scatter"]
        return statistics

    def _take_in(self) -> None:
        if not self._waiting:
            return
        rows, self._waiting = torch.cat(self._waiting), []
        for block in rows.split(BLOCK):
            x = block.double()
            mean = x.mean(dim=0)
            x -= mean
            self._combine(len(x), mean, x.T @ x)

    def _combine(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self._count + count
        delta = mean - self._mean
        self._scatter = self._scatter + scatter
        self._scatter.addr_(delta, delta, alpha=self._count * count / total)
        self._mean = self._mean + delta * (count / total)
        self._count = total

    @property
    def count(self) -> int:
        return self._count + sum(map(len, self._waiting))

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        self._take_in()
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64. Raises ValueError for fewer than two samples."""
        self._take_in()
        if self._count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self._count}")
        return self._scatter / (self._count - 1)

    def save(self, path: Path | str) -> None:
        """Writes an .npz with mu, sigma (the names of the ADM suite) and count."""
        with open(path, "wb") as file:
            np.savez(file, mu=self.mean.numpy(), sigma=self.covariance.numpy(), count=np.int64(self.count))

    @classmethod
    def load(cls, path: Path | str) -> GaussianStatistics:
        with np.load(path) as file:
            mean, covariance = torch.from_numpy(file["mu"]), torch.from_numpy(file["sigma"])
            statistics = cls(num_features=len(mean))
            statistics._combine(int(file["count"]), mean, covariance * (int(file["count"]) - 1))
        return statistics


Statistics = GaussianStatistics | StoredStatistics


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The squared Fréchet distance; 0 for equal statistics, the same both ways round.

    tr (sigma_a sigma_b)^(1/2) is the sum of the roots of the eigenvalues of r sigma_b r^T, with r a root of sigma_a:
    symmetric, so an eigen-decomposition serves and singular covariances do no harm.
    Raises ValueError for different widths and for fewer than two samples on either side.
    """
    return FrechetTo(b)(a)


class FrechetTo:
    """`frechet_distance` to one set of statistics, whose covariance is decomposed once."""

    def __init__(self, reference: Statistics) -> None:
        self.reference = reference
        covariance = reference.covariance
        self._trace = covariance.trace()
        values, vectors = torch.linalg.eigh(covariance)
        kept = _above_rounding(values)
        self._root = vectors[:, kept] * values[kept].sqrt()

    def __call__(self, samples: Statistics) -> float:
        if samples.num_features != self.reference.num_features:
            raise ValueError(
                f"cannot compare statistics of {samples.num_features} and {self.reference.num_features} features"
            )
        covariance = samples.covariance
        values = torch.linalg.eigvalsh(self._root.T @ covariance @ self._root)
        cross = values[_above_rounding(values)].sqrt().sum()
        distance = (samples.mean - self.reference.mean).square().sum() + covariance.trace() + self._trace - 2 * cross
        return max(0.0, distance.item())


def _above_rounding(values: Tensor) -> Tensor:
    """Which eigenvalues are more than rounding; the limit is that of a matrix's numerical rank.

    Those of a singular covariance that ought to be 0 come out near 1e-16 of the largest, and 2000 roots of such would
    show in the eighth digit.
    """
    if len(values) == 0:
        return torch.zeros(0, dtype=torch.bool)
    return values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps


def require_finite(features: Tensor) -> None:
    """Raises ValueError naming the first row of features (B, D) that holds NaN or infinity."""
    bad = ~torch.isfinite(features).all(dim=1)
    if bad.any():
        raise ValueError(
            f"features hold NaN or infinity in {int(bad.sum())} of {len(features)} samples, "
            f"first in sample {int(bad.nonzero()[0])}: look at those images"
        )
