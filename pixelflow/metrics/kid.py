"""Kernel distance, KID on features of Inception (Bińkowski et al. 2018, arXiv 1801.01401, section 4).

    KID = MMD^2 with the polynomial kernel k(x, y) = (x.y / D + 1)^3

Shape legend: N samples, M references, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def kernel_distance(
    features: Tensor, reference: Tensor, *, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Returns the mean and the standard deviation of the squared MMD over random subsets.

    The estimate is unbiased and can therefore be slightly negative. The standard deviation is normalised by the number
    of subsets, so that the standard error of the mean is deviation / sqrt(num_subsets - 1). The subsets are those of
    torch-fidelity for the same seed.

    Args:
        features: (N, D) features of the samples.
        reference: (M, D) features of the reference.
        subset_size: Samples per subset; a smaller set is used as a whole.
        num_subsets: Number of subsets.
        seed: Seed of the subsets.

    Raises:
        ValueError: The widths differ, or a subset would have fewer than two samples.
    """
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"cannot compare features of widths {features.shape[1]} and {reference.shape[1]}")
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise ValueError(f"a kernel distance needs at least 2 samples in a subset, got {size}")
    x, y = features.double(), reference.double()
    random = np.random.RandomState(seed)
    values = []
    for _ in range(num_subsets):
        rows_x = torch.from_numpy(random.choice(len(x), size, replace=False)).to(x.device)
        rows_y = torch.from_numpy(random.choice(len(y), size, replace=False)).to(y.device)
        values.append(squared_mmd(x[rows_x], y[rows_y]))
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Returns the unbiased squared MMD of x (N, D) and y (M, D) (Gretton et al. 2012, equation 3)."""

    def within(z: Tensor) -> Tensor:
        values = _kernel(z, z)
        # The kernel of a sample with itself would bias the mean.
        return (values.sum() - values.trace()) / (len(z) * (len(z) - 1))

    return (within(x) + within(y) - 2 * _kernel(x, y).mean()).item()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    base = (x @ y.T).div_(x.shape[1]).add_(1)
    return base.square().mul_(base)
