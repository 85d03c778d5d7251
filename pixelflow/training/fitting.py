"""Compares the tensors of a checkpoint with those of a network, and bounds the network by them while it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

from pixelflow.errors import UserError, WorkFailed
from pixelflow.training.reader import CheckpointError, StoredState, TensorInfo, show

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


def build_bare(build: Callable[[], nn.Module], headers: Mapping[str, TensorInfo], stored: StoredState) -> nn.Module:
    """Builds the network of a stored config on the meta device, and stops when it exceeds its checkpoint.

    Args:
        build: Builds the network.
        headers: Types and shapes of the tensors of the checkpoint.
        stored: The state of the checkpoint, for messages.

    Returns:
        The network without memory for its weights.

    Raises:
        CheckpointError: The network cannot be built, or its tensors are not those of the checkpoint.
    """
    with of_stored_config(stored), without_memory(), _limited(headers, stored):
        bare = build()
    if problem := misfit(bare.state_dict(), headers):
        raise CheckpointError(f"{stored.path} does not fit this backbone: {problem}")
    return bare


@contextmanager
def without_memory() -> Iterator[None]:
    """Builds networks on the meta device, without memory and without random numbers for their weights."""
    with torch.device("meta"), _NoNormal():
        yield


class _NoNormal(TorchFunctionMode):
    """Leaves out `normal_`, for whose shapes torch imports sympy and more, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, Tensor.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def of_stored_config(stored: StoredState) -> Iterator[None]:
    """Turns an error of the block, which builds parts of a stored config, into one that names the checkpoint.

    The values of a stored config may be of any type and size, so a constructor may fail in any way.
    """
    file = stored.path / "state.json"
    try:
        yield
    except (CheckpointError, WorkFailed):
        raise
    except UserError as error:
        raise UserError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).splitlines() or [""])[0]
        raise CheckpointError(
            f"{file} holds a config that cannot be built: {type(cause).__name__}: {reason}"
        ) from error


@contextmanager
def _limited(headers: Mapping[str, TensorInfo], stored: StoredState) -> Iterator[None]:
    """Stops the construction of a network that registers far more than the tensors of its checkpoint."""
    elements = sum(info.elements for info in headers.values())
    counts = {"tensors": 0, "elements": 0}

    def count(module: nn.Module, name: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            return
        counts["tensors"] += 1
        counts["elements"] += tensor.numel()
        if counts["tensors"] > 2 * len(headers) + SPARE_TENSORS or counts["elements"] > 2 * elements + SPARE_ELEMENTS:
            raise CheckpointError(
                f"{stored.path / 'state.json'} describes a backbone{_numbers(stored)} that is larger than the "
                f"{len(headers)} tensors with {elements:,} numbers of the checkpoint: at least {counts['tensors']} "
                f"with {counts['elements']:,}, the last one of shape {tuple(tensor.shape)}"
            )

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _numbers(stored: StoredState) -> str:
    """The whole numbers in the stored config of the backbone, among which the wrong one is."""
    config = stored.values.get("config")
    node = config.get("backbone") if isinstance(config, dict) else None
    items = node.items() if isinstance(node, dict) else ()
    numbers = [f"{show(name)[1:-1]}={value}" for name, value in items if type(value) is int]
    return f" ({', '.join(numbers[:12])})" if numbers else ""
