"""The comparison of the parity tests must be able to fail."""

from __future__ import annotations

import pytest
import torch

from tests.comparison import assert_all_close, assert_close, relative_error, with_one_number_changed


def test_error_is_relative_to_the_largest_number() -> None:
    expected = torch.tensor([0.0, -4.0, 1.0])
    assert relative_error(expected + torch.tensor([0.0, 0.0, 0.4]), expected) == pytest.approx(0.1)
    assert relative_error(torch.tensor([0.3]), torch.zeros(1)) == pytest.approx(0.3)


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_one_changed_number_fails(position: int, dtype: torch.dtype) -> None:
    value = torch.tensor([[0, 1, -2], [3, 5, 8]], dtype=dtype)
    changed = with_one_number_changed(value, position=position)
    assert (changed != value).sum() == 1
    assert_close(value, value, 0.0)
    with pytest.raises(AssertionError):
        assert_close(value, changed, 1e-4)


@pytest.mark.parametrize(
    "actual", [torch.ones(2, 2), torch.ones(1), torch.tensor([1.0, float("nan"), 1.0]), torch.full((3,), torch.inf)]
)
def test_shape_nan_and_infinity_fail(actual: torch.Tensor) -> None:
    with pytest.raises(AssertionError):
        assert_close(actual, torch.ones(3), 1e9)


def test_nan_in_the_expected_values_fails() -> None:
    with pytest.raises(AssertionError):
        assert_close(torch.ones(2), torch.tensor([1.0, float("nan")]), 1.0)


def test_nothing_to_compare_fails() -> None:
    with pytest.raises(AssertionError, match="nothing"):
        assert_all_close({}, {"a": torch.ones(1)}, 1.0)
    with pytest.raises(KeyError):
        assert_all_close({"b": torch.ones(1)}, {"a": torch.ones(1)}, 1.0)
