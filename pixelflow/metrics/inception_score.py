"""Inception score (Salimans et al. 2016) as the ADM suite computes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def inception_score(probabilities: Tensor, *, split_size: int = 5000) -> float:
    """exp(mean KL(p(y|x) || p(y))) of consecutive splits in file order, averaged; a short last split counts as one.

    probabilities: (N, K), each row summing to 1; for the published numbers the softmax of Inception's logits
    **without** its final bias. Raises ValueError for no samples, rows that are no distribution, or split_size < 1.
    """
    if split_size < 1:
        raise ValueError(f"split_size={split_size} must be at least 1")
    if len(probabilities) == 0:
        raise ValueError("an inception score needs at least one sample")
    p = probabilities.double()
    # Written so that NaN fails as well.
    if not ((p >= 0).all() and ((p.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise ValueError("probabilities must be non-negative with rows that sum to 1: give the softmax of the logits")
    scores = []
    for split in p.split(split_size):
        marginal = split.mean(dim=0, keepdim=True)
        # xlogy is 0 at p = 0, the limit of p log p.
        divergence = torch.special.xlogy(split, split) - torch.special.xlogy(split, marginal)
        scores.append(math.exp(divergence.sum(dim=1).mean().item()))
    return sum(scores) / len(scores)
