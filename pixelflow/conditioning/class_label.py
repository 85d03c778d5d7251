"""Class labels as the condition."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelflow.limits import at_least
from pixelflow.types import Batch, Condition, on


class ClassLabel:
    """Conditions on the class label.

    Args:
        num_classes: Number of classes; it is also the null label.
        drop_prob: Share of training images whose label is replaced by the null label.

    Raises:
        ValueError: There is no class, or drop_prob is outside [0, 1].
    """

    reads_captions = False

    def __init__(self, *, num_classes: int, drop_prob: float = 0.1) -> None:
        at_least(1, num_classes=num_classes)
        if not 0 <= drop_prob <= 1:
            raise ValueError(f"drop_prob={drop_prob} must be in [0, 1]")
        self.num_classes, self.drop_prob = num_classes, drop_prob

    def encode(self, batch: Batch) -> Condition:
        """Returns the labels of the batch."""
        return batch.condition

    def null(self, n: int) -> Condition:
        """Returns n null labels."""
        return Condition(class_label=torch.full((n,), self.num_classes, dtype=torch.int64))

    def drop(self, condition: Condition, uniform: Tensor) -> Condition:
        """Replaces labels by the null label where `uniform` (B,) in [0, 1) is below drop_prob."""
        dropped = on(uniform < self.drop_prob, condition.class_label.device)
        return Condition(class_label=condition.class_label.masked_fill(dropped, self.num_classes))
