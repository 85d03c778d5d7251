from __future__ import annotations

import math

import pytest
import torch

from pixelflow.metrics.inception_score import inception_score


def test_sure_and_balanced_gives_the_number_of_classes() -> None:
    assert inception_score(torch.eye(10).repeat(5, 1)) == pytest.approx(10, rel=1e-12)


def test_equal_predictions_give_one() -> None:
    assert inception_score(torch.tensor([[0.2, 0.3, 0.5]]).repeat(8, 1)) == pytest.approx(1, rel=1e-6)


def test_two_distributions_by_hand() -> None:
    """p(y|x) is (0.9, 0.1) or (0.1, 0.9), p(y) uniform: KL = log 2 - H(0.1)."""
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert inception_score(p) == pytest.approx(math.exp(math.log(2) - entropy), rel=1e-12)


def test_splits_are_consecutive_and_a_short_last_one_counts_as_one() -> None:
    balanced, one_class = torch.eye(4), torch.eye(4)[[0, 0]]
    p = torch.cat([balanced, balanced, one_class])
    assert inception_score(p, split_size=4) == pytest.approx((4 + 4 + 1) / 3, rel=1e-12)
    assert inception_score(p[[0, 4, 8, 1, 2, 3, 5, 6, 7, 9]], split_size=4) != pytest.approx(3, rel=1e-3)


def test_faults() -> None:
    with pytest.raises(ValueError, match="give the softmax"):
        inception_score(torch.randn(5, 3))
    with pytest.raises(ValueError, match="give the softmax"):
        inception_score(torch.full((5, 3), float("nan")))
    with pytest.raises(ValueError, match="at least one sample"):
        inception_score(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="split_size=0"):
        inception_score(torch.eye(3), split_size=0)
