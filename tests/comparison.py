"""The comparison of the parity tests: the error is max|a-b| / max|b|, as in the tolerances of the golden cases."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """max|a-b| / max|b| in float64; max|a-b| where b is all zero. NaN where either has one."""
    a, b = actual.detach().double(), expected.detach().double()
    if b.numel() == 0:
        return 0.0
    scale = b.abs().max().item()
    return (a - b).abs().max().item() / (scale if scale > 0 else 1.0)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, name: str = "tensor") -> None:
    """Same shape, and within tolerance. Integers must be equal."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if not expected.is_floating_point():
        assert torch.equal(actual.long(), expected.long()), f"{name}: {actual.tolist()}, expected {expected.tolist()}"
        return
    error = relative_error(actual, expected)
    assert error <= tolerance, f"{name}: error {error:.3g} is above {tolerance:.0e}"  # also fails for NaN


def assert_all_close(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Compares every tensor of `actual` with the expected one of the same name."""
    assert actual, "nothing to compare"
    for name, value in actual.items():
        assert_close(value, expected[name], tolerance, name)


def with_one_number_changed(value: Tensor, *, position: int = 0) -> Tensor:
    """A copy whose number at `position` is off: an integer by 1, a float by a thousandth of the largest one."""
    changed = value.clone()
    step = 1e-3 * (changed.abs().max().item() or 1.0) if changed.is_floating_point() else 1
    changed.view(-1)[position % changed.numel()] += step
    return changed
