"""The training objective: a weighted sum of losses, averaged over the images of all stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelflow.types import Batch, Loss, Predicted


@dataclass(frozen=True)
class ObjectiveValue:
    """loss: scalar with gradient. The rest is detached: terms, the unweighted mean of each loss; stages, the mean
    loss of each stage; images, how many of each stage there were.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    stages: dict[int, Tensor]
    images: dict[int, int]


class Objective:
    """terms: losses by name. One of weight zero is never computed. Raises ValueError if nothing is left."""

    def __init__(self, *, terms: Mapping[str, Loss]) -> None:
        self.terms = {name: loss for name, loss in terms.items() if loss.weight != 0}
        if not self.terms:
            raise ValueError("terms: at least one loss needs a weight other than 0")

    def __call__(self, predicted: Sequence[Predicted], batch: Batch) -> ObjectiveValue:
        """predicted: one per stage of the batch. Every image of the batch weighs the same."""
        sums: dict[str, Tensor] = {}
        stages, images = {}, {}
        total = torch.zeros((), device=batch.x.device)
        for p in predicted:
            part = batch[p.sample.index]
            stage_total = torch.zeros((), device=batch.x.device)
            for name, loss in self.terms.items():
                value = loss(p.sample, p, part).sum()
                stage_total = stage_total + loss.weight * value
                sums[name] = sums.get(name, 0) + value.detach()
            total = total + stage_total
            stage = p.sample.path.stage
            stages[stage], images[stage] = stage_total.detach() / len(part), len(part)
        n = len(batch)
        return ObjectiveValue(total / n, {name: value / n for name, value in sums.items()}, stages, images)
