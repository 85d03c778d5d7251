"""Exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """A second copy of the model whose weights follow the first: w <- d*w + (1-d)*model.

    decay: the limit of d. The first steps use d = (1 + step) / (10 + step) where that is smaller, so that short
    runs are not held back by the initial weights. Raises ValueError for a decay outside [0, 1).
    """

    def __init__(self, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1)")
        self.decay = decay
        self.model: nn.Module | None = None
        self._averaged: list[Tensor] = []

    def attach(self, model: nn.Module) -> None:
        """Start from the model's present weights."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averaged = list(self.model.parameters())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After optimizer step number `step` (the first is 1). One fused pass over all weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, list(model.parameters()), 1 - decay)
