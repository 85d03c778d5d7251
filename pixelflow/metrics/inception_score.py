"""Inception score (Salimans et al. 2016, arXiv 1606.03498, section 4), as the ADM suite computes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def inception_score(probabilities: Tensor, *, split_size: int = 5000) -> float:
    """Returns the Inception score, averaged over consecutive splits of the samples.

        IS = exp(E_x KL(p(y|x) || p(y)))

    The marginal p(y) is the mean of p(y|x) over the split. The last split may be shorter; it has the same weight.

    Args:
        probabilities: (N, K) class probabilities p(y|x). The published numbers use the softmax of Inception's logits
            **without** the final bias.
        split_size: Samples per split.

    Raises:
        ValueError: There are no samples, a row is not a distribution, or `split_size` is below 1.

    Example:
        >>> round(inception_score(torch.eye(4)), 6)
        4.0
    """
    if split_size < 1:
        raise ValueError(f"split_size={split_size} must be at least 1")
    if len(probabilities) == 0:
        raise ValueError("an inception score needs at least one sample")
    p = probabilities.double()
    # This form of the comparison rejects NaN as well.
    if not ((p >= 0).all() and ((p.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise ValueError("probabilities must be non-negative with rows that sum to 1: give the softmax of the logits")
    scores = []
    for split in p.split(split_size):
        marginal = split.mean(dim=0, keepdim=True)
        # xlogy is 0 at p = 0, the limit of p log p.
        divergence = torch.special.xlogy(split, split) - torch.special.xlogy(split, marginal)
        scores.append(math.exp(divergence.sum(dim=1).mean().item()))
    return sum(scores) / len(scores)
