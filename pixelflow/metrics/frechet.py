"""Fréchet distance between two sets of features, each described by a Gaussian.

    d = |mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2))

The formula is that of Dowson & Landau 1982, equation 4, and of Heusel et al. 2017 (arXiv 1706.08500), equation 6. The
distance is called FID only for features of the Inception network of 2015; otherwise its name includes the features.

Shape legend: B samples of a batch, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixelflow.files import written_aside

BLOCK = 1024
"""Rows that are processed together. Smaller batches are collected first, so that they cost no more than large ones."""


@dataclass(frozen=True)
class StoredStatistics:
    """Statistics of features that are not available themselves, such as those in an .npz of the ADM suite.

    Args:
        mean: (D,) float64.
        covariance: (D, D) float64, normalised by N-1.

    Raises:
        ValueError: The shapes do not fit each other, or a value is not finite.
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
        """The number of features, D."""
        return len(self.mean)


class GaussianStatistics:
    """Mean and covariance (N-1) of a stream of features, in float64 on the CPU.

    Blocks are combined by their means and scatter matrices (Chan, Golub & LeVeque 1983), which avoids the cancellation
    of large sums. The batch size and the order change the result by rounding only.

    Args:
        num_features: D.
    """

    def __init__(self, *, num_features: int) -> None:
        self.num_features = num_features
        self._count = 0
        self._mean = torch.zeros(num_features, dtype=torch.float64)
        self._scatter = torch.zeros(num_features, num_features, dtype=torch.float64)
        self._waiting: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Adds features (B, D) of any floating type.

        Raises:
            ValueError: They have another width, or a value is not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(f"features of shape {tuple(features.shape)}: expected (B, {self.num_features})")
        require_finite(features)
        if len(features) == 0:
            return
        self._waiting.append(features.detach().cpu())
        if sum(map(len, self._waiting)) >= BLOCK:
            self._take_in()

    def merge(self, other: GaussianStatistics) -> None:
        """Adds the features of other statistics.

        Raises:
            ValueError: They have another width.
        """
        if other.num_features != self.num_features:
            raise ValueError(f"cannot merge statistics of {other.num_features} and {self.num_features} features")
        self._take_in()
        other._take_in()
        if other._count:
            self._combine(other._count, other._mean, other._scatter)

    def state(self) -> dict[str, Tensor]:
        """Returns the count, the mean and the scatter matrix, for `from_state`."""
        self._take_in()
        return {"count": torch.tensor(self._count), "mean": self._mean, "scatter": self._scatter}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> GaussianStatistics:
        """Returns the statistics with the given state."""
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
        """The number of rows so far, N."""
        return self._count + sum(map(len, self._waiting))

    @property
    def mean(self) -> Tensor:
        """The mean, (D,) float64."""
        self._take_in()
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """The covariance, (D, D) float64.

        Raises:
            ValueError: There are fewer than two samples.
        """
        self._take_in()
        if self._count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self._count}")
        return self._scatter / (self._count - 1)

    def save(self, path: Path | str) -> None:
        """Writes an .npz with `mu` and `sigma`, as in the ADM suite, and `count`."""
        with written_aside(Path(path)) as aside, open(aside, "wb") as file:
            np.savez(file, mu=self.mean.numpy(), sigma=self.covariance.numpy(), count=np.int64(self.count))

    @classmethod
    def load(cls, path: Path | str) -> GaussianStatistics:
        """Returns the statistics that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = torch.from_numpy(file["mu"]), torch.from_numpy(file["sigma"])
            statistics = cls(num_features=len(mean))
            statistics._combine(int(file["count"]), mean, covariance * (int(file["count"]) - 1))
        return statistics


Statistics = GaussianStatistics | StoredStatistics


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Returns the squared Fréchet distance, which is symmetric and 0 for equal statistics.

    With r r^T = sigma_b, tr (sigma_a sigma_b)^(1/2) is the sum of the square roots of the eigenvalues of r^T sigma_a r.
    This matrix is symmetric, so that its eigenvalues are stable even if a covariance is singular.

    Raises:
        ValueError: The widths differ, or one side has fewer than two samples.

    Example:
        >>> a = StoredStatistics(torch.zeros(2).double(), torch.eye(2).double())
        >>> b = StoredStatistics(torch.tensor([3.0, 4.0]).double(), 4 * torch.eye(2).double())
        >>> frechet_distance(a, b)  # 3^2 + 4^2 + 2 (1 - 2)^2
        27.0
    """
    return FrechetTo(b)(a)


class FrechetTo:
    """The function `frechet_distance` to a fixed reference, whose covariance is decomposed only once.

    Args:
        reference: Statistics of the reference.
    """

    def __init__(self, reference: Statistics) -> None:
        self.reference = reference
        covariance = reference.covariance
        self._trace = covariance.trace()
        values, vectors = torch.linalg.eigh(covariance)
        kept = _above_rounding(values)
        self._root = vectors[:, kept] * values[kept].sqrt()

    def __call__(self, samples: Statistics) -> float:
        """Returns the squared Fréchet distance of samples to the reference; see `frechet_distance`."""
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
    """A mask of the eigenvalues that are larger than rounding errors, by the usual limit of a matrix's numerical rank.

    The zero eigenvalues of a singular covariance are computed as about 1e-16 of the largest one. The sum of 2000 of
    their square roots would change the eighth digit of a distance.
    """
    if len(values) == 0:
        return torch.zeros(0, dtype=torch.bool)
    return values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps


def require_finite(features: Tensor) -> None:
    """Checks that all features (B, D) are finite.

    Raises:
        ValueError: A row holds NaN or infinity; the message names the first one.
    """
    bad = ~torch.isfinite(features).all(dim=1)
    if bad.any():
        raise ValueError(
            f"features hold NaN or infinity in {int(bad.sum())} of {len(features)} samples, "
            f"first in sample {int(bad.nonzero()[0])}: look at those images"
        )
