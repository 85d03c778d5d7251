"""A Fréchet distance without its bias from few samples (Chong & Forsyth 2020).

The distance of N samples is, to first order, that of infinitely many plus a constant / N: a line through the distances
of growing parts of the samples, read off at 1/N = 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pixelflow.metrics.frechet import FrechetTo, GaussianStatistics, Statistics

POINTS = 15
SMALLEST = 5000
"""Of the parts, as in the paper; with fewer than twice as many samples, half of them."""


def frechet_at_infinity(pool: Tensor, reference: Statistics, *, points: int = POINTS, seed: int = 0) -> float:
    """pool: (N, D) of the samples, in an order that means nothing. The parts are drawn by `seed`.

    Raises ValueError for fewer than 4 samples.
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
