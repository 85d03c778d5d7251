from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pixelflow.metrics.kid import kernel_distance, squared_mmd


def draw(n: int, d: int = 5, *, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def naive_mmd(x: list[list[float]], y: list[list[float]]) -> float:
    """Gretton et al. 2012, equation 3, term by term."""

    def kernel(a: list[float], b: list[float]) -> float:
        return (sum(i * j for i, j in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(z: list[list[float]]) -> float:
        return sum(kernel(a, b) for a, b in itertools.permutations(z, 2)) / (len(z) * (len(z) - 1))

    between = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * between


def test_squared_mmd_equals_its_definition() -> None:
    x, y = draw(7), draw(9, seed=1, shift=0.5)
    assert squared_mmd(x, y) == pytest.approx(naive_mmd(x.tolist(), y.tolist()), rel=1e-12)


def test_it_is_unbiased() -> None:
    """Over independent draws from one distribution the mean is 0 within four standard errors, and the diagonal, left
    in, would put it far outside."""
    values = torch.tensor([squared_mmd(draw(20, seed=2 * s), draw(20, seed=2 * s + 1)) for s in range(300)])
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    assert values.std() / 300**0.5 < 0.02


def test_one_subset_of_everything_is_the_plain_estimate() -> None:
    x, y = draw(30), draw(30, seed=1, shift=0.2)
    mean, std = kernel_distance(x, y, subset_size=1000, num_subsets=3)
    assert mean == pytest.approx(squared_mmd(x, y), rel=1e-12)
    assert std < 1e-12


def test_mean_and_deviation_over_subsets() -> None:
    x, y = draw(400), draw(500, seed=1, shift=0.3)
    mean, std = kernel_distance(x, y, subset_size=50, num_subsets=60, seed=1)
    assert (mean, std) == kernel_distance(x, y, subset_size=50, num_subsets=60, seed=1)
    assert (mean, std) != kernel_distance(x, y, subset_size=50, num_subsets=60, seed=2)
    assert 0 < std < mean
    assert mean == pytest.approx(squared_mmd(x, y), abs=5 * std / 60**0.5)


def test_it_grows_with_the_shift() -> None:
    values = [kernel_distance(draw(200), draw(200, seed=1, shift=s), num_subsets=1)[0] for s in (0.0, 0.5, 1.0)]
    assert values[0] < values[1] < values[2]


def test_float32_features_are_compared_in_float64() -> None:
    x, y = draw(50).float(), draw(50, seed=1).float()
    assert kernel_distance(x, y, num_subsets=2) == kernel_distance(x.double(), y.double(), num_subsets=2)


def test_faults() -> None:
    with pytest.raises(ValueError, match="widths 5 and 4"):
        kernel_distance(draw(10), draw(10, 4))
    with pytest.raises(ValueError, match="at least 2 samples"):
        kernel_distance(draw(1), draw(10))
