from __future__ import annotations

import pytest
import torch

from pixelflow.conditioning import ClassLabel
from pixelflow.types import Batch, Condition

LABELS = Condition(torch.tensor([3, 1, 4, 1, 5]))


def test_encode_returns_the_labels() -> None:
    batch = Batch(torch.zeros(5, 1, 4, 4), LABELS, torch.arange(5))
    assert torch.equal(ClassLabel(num_classes=10).encode(batch).class_label, LABELS.class_label)


def test_the_null_label_follows_the_last_class() -> None:
    null = ClassLabel(num_classes=10).null(3).class_label
    assert null.tolist() == [10, 10, 10]
    assert null.dtype == torch.int64


def test_drop_is_decided_image_by_image() -> None:
    uniform = torch.tensor([0.05, 0.1, 0.0999999, 0.5, 0.0], dtype=torch.float64)
    dropped = ClassLabel(num_classes=10, drop_prob=0.1).drop(LABELS, uniform)
    assert dropped.class_label.tolist() == [10, 1, 10, 1, 10]
    assert LABELS.class_label.tolist() == [3, 1, 4, 1, 5]


@pytest.mark.parametrize(("drop_prob", "share"), [(0.0, 0.0), (1.0, 1.0), (0.25, 0.25)])
def test_share_of_dropped_images(drop_prob: float, share: float) -> None:
    labels = Condition(torch.zeros(4000, dtype=torch.int64))
    uniform = torch.arange(4000, dtype=torch.float64) / 4000
    dropped = ClassLabel(num_classes=10, drop_prob=drop_prob).drop(labels, uniform).class_label
    assert dropped.eq(10).double().mean().item() == share


@pytest.mark.parametrize("drop_prob", [-0.1, 1.5])
def test_a_share_beyond_zero_and_one_is_refused(drop_prob: float) -> None:
    with pytest.raises(ValueError, match=f"drop_prob={drop_prob} must be in"):
        ClassLabel(num_classes=10, drop_prob=drop_prob)
