from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from pixelflow.metrics.frechet import GaussianStatistics, frechet_distance

D = 6


def statistics(*batches: Tensor) -> GaussianStatistics:
    result = GaussianStatistics(num_features=batches[0].shape[1])
    for batch in batches:
        result.update(batch)
    return result


def draw(n: int, *, seed: int = 0, d: int = D) -> Tensor:
    """Correlated features with a mean far from 0, where sums of squares would cancel."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + 1e4


def axes(lengths: list[float], centre: list[float]) -> Tensor:
    """Points at +-length on each axis: the covariance is exactly diag(2 length^2 / (2D - 1))."""
    points = torch.diag(torch.tensor(lengths, dtype=torch.float64))
    return torch.cat([points, -points]) + torch.tensor(centre, dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_statistics_equal_numpy_for_any_batch_size(batch_size: int) -> None:
    x = draw(301)
    got = statistics(*x.split(batch_size))
    assert got.count == 301
    np.testing.assert_allclose(got.mean, np.mean(x.numpy(), axis=0), rtol=1e-12)
    scale = np.cov(x.numpy(), rowvar=False)
    np.testing.assert_allclose(got.covariance, scale, rtol=1e-9, atol=1e-9 * np.abs(scale).max())


def test_statistics_do_not_depend_on_order_or_on_how_parts_are_merged() -> None:
    x = draw(200)
    whole = statistics(x)
    shuffled = statistics(*x[torch.randperm(200, generator=torch.Generator().manual_seed(1))].split(9))
    merged = statistics(x[:3])
    merged.merge(GaussianStatistics(num_features=D))
    merged.merge(statistics(*x[3:].split(50)))
    for other in (shuffled, merged):
        assert other.count == 200
        torch.testing.assert_close(other.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(other.covariance, whole.covariance, rtol=1e-9, atol=1e-9)


def test_float32_features_are_summed_in_float64() -> None:
    x = draw(1000).float()
    got = statistics(*x.split(10))
    expected = np.cov(x.double().numpy(), rowvar=False)
    np.testing.assert_allclose(got.covariance, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_saved_statistics_can_be_loaded_and_continued(tmp_path: Path) -> None:
    x = draw(40)
    statistics(x[:25]).save(tmp_path / "statistics.npz")
    with np.load(tmp_path / "statistics.npz") as file:
        np.testing.assert_allclose(file["sigma"], np.cov(x[:25].numpy(), rowvar=False), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(file["mu"], x[:25].mean(dim=0))
    loaded = GaussianStatistics.load(tmp_path / "statistics.npz")
    loaded.update(x[25:])
    assert loaded.count == 40
    torch.testing.assert_close(loaded.covariance, statistics(x).covariance, rtol=1e-9, atol=1e-9)


def test_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    a, b = [1.0, 2.0, 0.5], [3.0, 0.0, 0.5]  # b is singular
    centre_a, centre_b = [0.0, 1.0, -1.0], [0.5, 1.0, 2.0]
    unit = 2 / (2 * 3 - 1)
    expected = sum((m - n) ** 2 for m, n in zip(centre_a, centre_b, strict=True))
    expected += sum(unit * (s - t) ** 2 for s, t in zip(a, b, strict=True))
    got = frechet_distance(statistics(axes(a, centre_a)), statistics(axes(b, centre_b)))
    assert got == pytest.approx(expected, rel=1e-12)


def test_distance_equals_the_matrix_square_root() -> None:
    a, b = statistics(draw(50)), statistics(draw(60, seed=2))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-9)


def test_distance_to_itself_is_zero_also_when_the_covariance_is_singular() -> None:
    few = statistics(draw(4))
    assert 0 <= frechet_distance(few, few) < 1e-6 * float(few.covariance.trace())


def test_distance_between_singular_covariances_in_other_planes() -> None:
    a, b = axes([2.0, 0.0], [0.0, 0.0]), axes([0.0, 3.0], [0.0, 0.0])
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(2 / 3 * (4 + 9), rel=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    x = draw(8)
    x[5, 2] = bad
    target = statistics(draw(8))
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 8 samples, first in sample 5"):
        target.update(x)
    assert target.count == 8


def test_other_widths_are_refused() -> None:
    a, b = statistics(draw(8)), statistics(draw(8, d=D + 1))
    with pytest.raises(ValueError, match=r"expected \(B, 6\)"):
        a.update(draw(3, d=D + 1))
    with pytest.raises(ValueError, match="cannot merge"):
        a.merge(b)
    with pytest.raises(ValueError, match="cannot compare"):
        frechet_distance(a, b)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet_distance(statistics(draw(8)), statistics(draw(n)))
