"""Fréchet distance between two sets of features, each taken as a Gaussian (Dowson & Landau 1982; Heusel et al. 2017).

    d = |mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2))

It is an FID only on features of the 2015 Inception; elsewhere name it after its features.

Shape legend: B samples of a batch, D features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class GaussianStatistics:
    """Mean and covariance (N-1) of a stream of features, in float64 on the CPU.

    Batches and parts are combined by their means and scatters (Chan, Golub & LeVeque 1983), so batch size
    and order change nothing beyond rounding, and no large sums cancel.
    """

    def __init__(self, *, num_features: int) -> None:
        self.num_features = num_features
        self.count = 0
        self._mean = torch.zeros(num_features, dtype=torch.float64)
        self._scatter = torch.zeros(num_features, num_features, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """features: (B, D), any floating type. Raises ValueError for another width and for NaN or infinity."""
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(f"features of shape {tuple(features.shape)}: expected (B, {self.num_features})")
        require_finite(features)
        if len(features) == 0:
            return
        x = features.detach().to("cpu", torch.float64)
        mean = x.mean(dim=0)
        centred = x - mean
        self._combine(len(x), mean, centred.T @ centred)

    def merge(self, other: GaussianStatistics) -> None:
        """Takes in what another one has seen. Raises ValueError where the widths differ."""
        if other.num_features != self.num_features:
            raise ValueError(f"cannot merge statistics of {other.num_features} and {self.num_features} features")
        if other.count:
            self._combine(other.count, other._mean, other._scatter)

    def _combine(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        delta = mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(delta, delta) * (self.count * count / total)
        self._mean = self._mean + delta * (count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64. Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        return self._scatter / (self.count - 1)

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


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The squared Fréchet distance; 0 for equal statistics, the same both ways round.

    tr (sigma_a sigma_b)^(1/2) is the sum of the roots of the eigenvalues of r sigma_b r, with r the symmetric root
    of sigma_a: symmetric, so an eigen-decomposition serves and singular covariances do no harm.
    Raises ValueError for different widths and for fewer than two samples on either side.
    """
    if a.num_features != b.num_features:
        raise ValueError(f"cannot compare statistics of {a.num_features} and {b.num_features} features")
    values, vectors = torch.linalg.eigh(a.covariance)
    # Rounding puts the zero eigenvalues of a singular covariance slightly below 0.
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, distance.item())


def require_finite(features: Tensor) -> None:
    """Raises ValueError naming the first row of features (B, D) that holds NaN or infinity."""
    bad = ~torch.isfinite(features).all(dim=1)
    if bad.any():
        raise ValueError(
            f"features hold NaN or infinity in {int(bad.sum())} of {len(features)} samples, "
            f"first in sample {int(bad.nonzero()[0])}: look at those images"
        )
