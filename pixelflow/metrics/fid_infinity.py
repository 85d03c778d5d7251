"""The Fréchet distance without the bias of a finite number of samples (Chong & Forsyth 2020, arXiv 1911.07023).

The bias of a distance is proportional to 1/N to first order in the number N of samples:

    d_N = d_infinity + c / N

A straight line in 1/N is fitted to the distances of subsets of increasing size, and its value at 1/N = 0 is d_infinity.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pixelflow.metrics.frechet import FrechetTo, GaussianStatistics, Statistics

POINTS = 15
"""The number of subsets, as in the paper."""
SMALLEST = 5000
"""The size of the smallest subset, as in the paper; half of the samples if there are fewer than twice as many."""


def frechet_at_infinity(pool: Tensor, reference: Statistics, *, points: int = POINTS, seed: int = 0) -> float:
    """Returns the Fréchet distance, extrapolated to infinitely many samples.

    Args:
        pool: (N, D) features of the samples, in an order that does not depend on their content.
        reference: Statistics of the reference.
        points: Number of subsets.
        seed: Seed of the subsets.

    Raises:
        ValueError: There are fewer than 4 samples.
    """
    if len(pool) < 4:
        raise ValueError(f"a distance at infinity needs at least 4 samples, got {len(pool)}")
    distance_to = FrechetTo(reference)
    smallest = min(SMALLEST, len(pool) // 2)
    sizes = np.linspace(smallest, len(pool), points).astype(int)
    random = np.random.RandomState(seed)
    distances = []
    for size in sizes:
        rows = torch.from_numpy(random.choice(len(pool), size, replace=False))
        statistics = GaussianStatistics(num_features=pool.shape[1])
        statistics.update(pool[rows])
        distances.append(distance_to(statistics))
    _, at_zero = np.polyfit(1 / sizes, distances, 1)
    return float(at_zero)
