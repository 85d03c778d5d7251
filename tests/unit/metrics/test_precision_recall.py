from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pixelflow.metrics.precision_recall import Blocks, precision_recall, squared_radii


def draw(n: int, d: int = 3, *, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def brute_force(samples: Tensor, reference: Tensor, k: int) -> tuple[float, float]:
    """The definition, one pair at a time."""

    def radius(points: list[list[float]], i: int) -> float:
        return sorted(math.dist(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    def share(points: list[list[float]], centres: list[list[float]]) -> float:
        radii = [radius(centres, i) for i in range(len(centres))]
        inside = [any(math.dist(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    a, b = samples.tolist(), reference.tolist()
    return share(a, b), share(b, a)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block", [1, 16, 60, 4096])
def test_it_equals_brute_force(k: int, block: int) -> None:
    samples, reference = draw(60, d=8), draw(47, d=8, seed=1)
    expected = brute_force(samples, reference, k)
    assert precision_recall(samples, reference, k=k, block=block) == expected
    assert 0.2 < expected[0] < 1 and 0.2 < expected[1] < 1


def test_a_point_is_not_its_own_neighbour() -> None:
    points = column(0, 1, 3, 7)
    blocks = Blocks(points, 3, torch.zeros(points.shape[1], dtype=torch.float64), None)
    assert squared_radii(blocks, k=1).tolist() == [1, 1, 4, 16]
    assert squared_radii(blocks, k=3).tolist() == [49, 36, 16, 49]


def test_an_example_by_hand() -> None:
    # Balls of the reference: [-1, 1], [0, 2], [1, 5], [3, 11].
    samples = column(-2, -1, 2.5, 12)
    # Balls of the samples: [-3, -1], [-2, 0], [-1, 6], [2.5, 21.5].
    assert precision_recall(samples, column(0, 1, 3, 7), k=1) == (0.5, 1.0)


def test_equal_sets_cover_each_other_and_distant_ones_do_not() -> None:
    x = draw(40)
    assert precision_recall(x, x.clone()) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)


def test_collapsed_samples_have_precision_and_hardly_any_recall() -> None:
    """Every sample is one and the same reference."""
    reference = draw(50, d=64) + 1e3
    samples = reference[17].expand(20, -1)
    assert precision_recall(samples, reference) == (1.0, 1 / 50)


@pytest.mark.parametrize("block", [7, 33, 4096])
def test_equal_points_are_at_distance_zero_despite_rounding(block: int) -> None:
    """Five copies of each reference: every ball of the samples has radius 0 and holds its reference."""
    for seed in range(5):
        reference = draw(50, d=100, seed=seed)
        assert precision_recall(reference.repeat_interleave(5, dim=0), reference, block=block) == (1.0, 1.0)


def test_faults() -> None:
    with pytest.raises(ValueError, match="samples has 3 points; k=3 neighbours need at least 4"):
        precision_recall(draw(3), draw(10))
    with pytest.raises(ValueError, match="reference has 2 points"):
        precision_recall(draw(10), draw(2))
    with pytest.raises(ValueError, match="k=0"):
        precision_recall(draw(10), draw(10), k=0)
