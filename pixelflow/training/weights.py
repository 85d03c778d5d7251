"""Reads weights from checkpoints: an average by its name for sampling, or the initial weights of another run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.ema import gamma_of, posthoc
from pixelflow.training.fitting import Described, build_bare, misfit, require_finite
from pixelflow.training.reader import CheckpointError, StoredState, TensorInfo, load_checkpoint, read_state

logger = logging.getLogger(__name__)

NUMBER = r"(\d*\.?\d+)"
POWER = re.compile(rf"power_{NUMBER}(e-\d+)?")
NAMES = re.compile(rf"model|ema|ema_{NUMBER}|power_{NUMBER}|posthoc_{NUMBER}")


def check_name(name: str) -> None:
    """Checks the name of weights.

    Args:
        name: "model", "ema", an average such as "ema_0.999" or "power_0.05", or "posthoc_0.08".

    Raises:
        ValueError: The name has another form, or its width is out of range.
    """
    match = NAMES.fullmatch(name)
    if match is None:
        raise ValueError(
            f"weights={name!r}: must be 'ema' or 'model', another average that the run has kept, such as ema_0.999 or "
            "power_0.05, or posthoc_0.08, an average of any width reconstructed from the run's snapshots"
        )
    if width := match.group(2) or match.group(3):
        gamma_of(float(width))


class Snapshots(Mapping[tuple[int, str], dict[str, Tensor]]):
    """The snapshots of a run's power averages by step and name. Each is read and verified when it is accessed.

    Args:
        folder: The run's folder of snapshots.
        last: The last step that is of interest.

    Raises:
        CheckpointError: A snapshot is damaged.
    """

    def __init__(self, folder: Path, *, last: int) -> None:
        store = CheckpointStore(folder, keep=None)
        self._stored = {step: read_state(store.path(step)) for step in store.steps() if 0 < step <= last}
        self._keys = [
            (step, name) for step, stored in self._stored.items() for name in stored.stems if POWER.fullmatch(name)
        ]
        for step, stored in self._stored.items():
            if stored.step != step:
                raise CheckpointError(f"{stored.path} is a snapshot of step {stored.step}: it was renamed or changed")

    def headers(self) -> dict[str, TensorInfo]:
        """Returns types and shapes of the tensors of the first snapshot, which are those of all."""
        step, name = self._keys[0]
        return self._stored[step].headers([name])

    def __getitem__(self, key: tuple[int, str]) -> dict[str, Tensor]:
        step, name = key
        stored = self._stored[step]
        if problem := misfit(self.headers(), stored.headers([name])):
            raise CheckpointError(f"{stored.path} does not fit the first snapshot: {problem}")
        return load_checkpoint(stored.path, stems=(name,)).tensors[name]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def read_weights(checkpoint: str | Path, name: str) -> tuple[dict[str, Tensor], int]:
    """Reads the weights of one name.

    Args:
        checkpoint: A checkpoint folder.
        name: See `check_name`.

    Returns:
        The tensors by name, and the step of the checkpoint.

    Raises:
        CheckpointError: The checkpoint is missing or damaged, has no such weights, or they are not finite.
    """
    checkpoint = Path(checkpoint)
    if name.startswith("posthoc_"):
        weights, step = _posthoc(checkpoint, name)
    else:
        loaded = load_checkpoint(checkpoint, stems=(name,))
        if name not in loaded.tensors:
            raise _lacking(read_state(checkpoint), name)
        weights, step = loaded.tensors[name], loaded.step
    require_finite(weights, checkpoint)
    return weights, step


def _posthoc(checkpoint: Path, name: str) -> tuple[dict[str, Tensor], int]:
    step = read_state(checkpoint).step
    snapshots = Snapshots(_snapshot_folder(checkpoint), last=step)
    try:
        return posthoc(snapshots, step=step, width=float(name.removeprefix("posthoc_"))), step
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"weights={name}: {error}") from None


def _snapshot_folder(checkpoint: Path) -> Path:
    return checkpoint.resolve().parent.parent / "snapshots"


def _lacking(stored: StoredState, name: str) -> CheckpointError:
    there = ", ".join(stem for stem in stored.stems if stem not in ("optimizer", "objective")) or "none"
    return CheckpointError(f"{stored.path} has no weights called {name}; it has {there}")


def bare_backbone(build: Callable[[], nn.Module], checkpoint: str | Path, name: str) -> nn.Module:
    """Builds the backbone of a checkpoint without memory for its weights, and compares it with their headers.

    Args:
        build: Builds the backbone from the stored config.
        checkpoint: A checkpoint folder.
        name: Name of the weights, see `check_name`.

    Raises:
        CheckpointError: The checkpoint cannot be read, has no such weights, or does not fit the backbone. A config
            that describes a larger backbone than the file holds is refused while it is built.
    """
    stored = read_state(checkpoint)
    return build_bare(build, _headers(stored, name), stored)


def load_backbone(build: Callable[[], nn.Module], checkpoint: str | Path, name: str) -> tuple[nn.Module, int]:
    """Builds the backbone of a checkpoint and loads its weights. The arguments are those of `bare_backbone`.

    Returns:
        The backbone, and the step of the checkpoint.

    Raises:
        CheckpointError: See `bare_backbone`; or the weights are damaged or not finite.
    """
    bare_backbone(build, checkpoint, name)
    weights, step = read_weights(checkpoint, name)
    backbone = build()
    if problem := misfit(backbone.state_dict(), weights):
        raise CheckpointError(f"{checkpoint} does not fit this backbone: {problem}")
    backbone.load_state_dict(weights)
    return backbone, step


def _headers(stored: StoredState, name: str) -> dict[str, TensorInfo]:
    if name.startswith("posthoc_"):
        snapshots = Snapshots(_snapshot_folder(stored.path), last=stored.step)
        if not len(snapshots):
            raise CheckpointError(f"weights={name}: 0 snapshots of power averages; train with snapshot_every")
        return snapshots.headers()
    if name not in stored.stems:
        raise _lacking(stored, name)
    return stored.headers([name])


def fitting(mine: Mapping[str, Described], theirs: Mapping[str, Described], checkpoint: str | Path) -> list[str]:
    """Returns the names of the tensors that a network can take from a checkpoint: those of equal name and shape.

    Args:
        mine: The tensors of the network.
        theirs: The tensors of the checkpoint.
        checkpoint: Its folder, for the message.

    Raises:
        CheckpointError: No tensor fits, or most tensors that both have differ in shape. A network of another width has
            a few small tensors of equal shape, and would hardly be initialised.
    """
    common = [name for name in mine if name in theirs]
    found = [name for name in common if tuple(mine[name].shape) == tuple(theirs[name].shape)]
    if not found or 2 * len(found) < len(common):
        raise CheckpointError(
            f"{checkpoint}: {len(found)} of {len(mine)} tensors fit this backbone; {misfit(mine, theirs)}"
        )
    return found


@torch.no_grad()
def init_from(backbone: nn.Module, checkpoint: str | Path) -> None:
    """Copies the averaged weights of another run's checkpoint, of any resolution or number of stages.

    Tensors that match in name and shape are copied; the log names the others, which keep their initial values.

    Args:
        backbone: The network to initialise.
        checkpoint: A checkpoint folder.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is that of another network, see `fitting`.
    """
    weights, step = read_weights(checkpoint, "ema")
    mine = backbone.state_dict()
    copied = fitting(mine, weights, checkpoint)
    for name in copied:
        mine[name].copy_(weights[name])
    logger.info("copied %d of %d tensors from %s, step %d", len(copied), len(mine), checkpoint, step)
    for name in sorted({*mine, *weights} - {*copied}):
        ours = tuple(mine[name].shape) if name in mine else "missing"
        theirs = tuple(weights[name].shape) if name in weights else "missing"
        logger.warning("not copied: %s (%s in the checkpoint, %s in this backbone)", name, theirs, ours)
