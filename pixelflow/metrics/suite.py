"""Several evaluators that are fed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pixelflow.metrics.clip import ClipScore
from pixelflow.metrics.evaluator import Evaluator

FEATURE_BATCH = 100
"""Images in one forward pass of an extractor: at 299 pixels more of them fill memory and bring nothing."""


class Suite:
    """All evaluators of a config, fed together. A part of it can be saved, and taken in by another process."""

    def __init__(self, evaluator: Evaluator, more: Sequence[Evaluator | ClipScore] = ()) -> None:
        self.evaluator = evaluator
        self.members: list[Evaluator | ClipScore] = [evaluator, *more]
        self._ids: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        return self.evaluator.num_samples

    def update(self, images: Tensor, labels: Tensor | None, ids: Sequence[int]) -> None:
        """images: (B, C, H, W) uint8. labels: (B,) or None. ids: their numbers."""
        for start in range(0, len(images), FEATURE_BATCH):
            part = slice(start, start + FEATURE_BATCH)
            for member in self.members:
                member.update(images[part], None if labels is None else labels[part], list(ids)[part])
        self._ids.append(torch.tensor(list(ids)))

    def state(self) -> dict[str, Tensor]:
        """ids, and each member's state under its number."""
        states = {f"{n}.{key}": value for n, member in enumerate(self.members) for key, value in member.state().items()}
        return {"ids": torch.cat(self._ids), **{key: value.contiguous() for key, value in states.items()}}

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        self._ids.append(state["ids"])
        for n, member in enumerate(self.members):
            prefix = f"{n}."
            member.add_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def clear(self) -> None:
        self._ids = []
        for member in self.members:
            member.clear()

    def compute(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for member in self.members:
            metrics |= member.compute()
        return metrics

    def record(self) -> dict[str, Any]:
        first, *more = (member.record() for member in self.members)
        return first | ({"also": more} if more else {})
