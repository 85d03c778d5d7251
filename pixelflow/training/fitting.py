"""Compares the tensors of a checkpoint with those of a network, and bounds the network by them while it is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pixelflow.training.reader import CheckpointError, show

SPARE_TENSORS, SPARE_ELEMENTS = 1000, 2**24
"""What a network may register beyond twice the tensors of its checkpoint, such as buffers that are not saved."""


class Described(Protocol):
    """A tensor, or the type and shape of one."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers."""

    @property
    def shape(self) -> Sequence[int]:
        """Its shape."""


def misfit(wanted: Mapping[str, Described], found: Mapping[str, Described], *, more: bool = False) -> str | None:
    """Compares names, shapes and kinds of numbers of tensors.

    Args:
        wanted: The tensors of the network.
        found: The tensors of the checkpoint.
        more: Whether the checkpoint may hold further tensors.

    Returns:
        A text that names a few tensors which do not fit; None if all fit.
    """
    other = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and tuple(found[name].shape) != tuple(value.shape)
    ]
    kinds = [
        f"{name} {found[name].dtype} instead of {value.dtype}"
        for name, value in wanted.items()
        if name in found and found[name].dtype.is_floating_point != value.dtype.is_floating_point
    ]
    parts = {
        "missing": sorted({*wanted} - {*found}), "left over": [] if more else sorted({*found} - {*wanted}),
        "of another shape": other, "of another type": kinds,
    }  # fmt: skip
    return "; ".join(f"{label}: {_few(names)}" for label, names in parts.items() if names) or None


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(show(name)[1:-1] for name in names[:3]) + rest


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises CheckpointError if weights are infinite or not a number: no image and no training could come of them."""
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path} holds weights that are not finite: {_few(bad)}; use another checkpoint")
