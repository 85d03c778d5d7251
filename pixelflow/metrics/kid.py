"""Kernel distance (Binkowski et al. 2018): unbiased MMD^2 with the polynomial kernel (x.y/D + 1)^3.

Shape legend: N samples, M references, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def kernel_distance(
    features: Tensor, reference: Tensor, *, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation (not N-1) over random subsets; it may fall slightly below 0.

    The mean's standard error, over the draw of the subsets, is the deviation / sqrt(num_subsets - 1).

    features: (N, D). reference: (M, D). subset_size: at most; a smaller set is used whole, which keeps the estimate
    unbiased. The subsets are drawn as torch-fidelity draws them, so equal seeds give its numbers.
    Raises ValueError for fewer than two samples in a subset or for different widths.
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
    """Unbiased MMD^2 of x (N, D) and y (M, D) (Gretton et al. 2012, equation 3)."""

    def within(z: Tensor) -> Tensor:
        values = _kernel(z, z)
        # A sample's kernel with itself would bias the mean.
        return (values.sum() - values.trace()) / (len(z) * (len(z) - 1))

    return (within(x) + within(y) - 2 * _kernel(x, y).mean()).item()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    base = (x @ y.T).div_(x.shape[1]).add_(1)
    return base.square().mul_(base)
