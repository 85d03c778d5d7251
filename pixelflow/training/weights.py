"""Weights out of checkpoints: for sampling, by the name of an average, and as the beginning of another run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelflow.training.checkpoint import CheckpointError, CheckpointStore, load_checkpoint, stem_of
from pixelflow.training.ema import gamma_of, posthoc

logger = logging.getLogger(__name__)

NUMBER = r"(\d*\.?\d+)"
NAMES = re.compile(rf"model|ema|ema_{NUMBER}|power_{NUMBER}|posthoc_{NUMBER}")


def check_name(name: str) -> None:
    """Raises ValueError unless it is what `sampler.weights` may be."""
    match = NAMES.fullmatch(name)
    if match is None:
        raise ValueError(
            f"sampler.weights={name!r}: must be 'ema' or 'model', or ema_0.999 and power_0.05 of ema.more_decays and "
            "ema.power, or posthoc_0.08, any width, rebuilt from the run's snapshots"
        )
    if width := match.group(2) or match.group(3):
        gamma_of(float(width))


class Snapshots(Mapping[tuple[int, str], dict[str, Tensor]]):
    """A run's snapshots of power averages, each read and verified when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.store = CheckpointStore(folder, keep=None)
        self._keys = [
            (step, name)
            for step in self.store.steps()
            for name in sorted({stem_of(p) for p in self.store.path(step).glob("power_*.safetensors")})
        ]

    def __getitem__(self, key: tuple[int, str]) -> dict[str, Tensor]:
        step, name = key
        return load_checkpoint(self.store.path(step), stems=(name,)).tensors[name]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def read_weights(checkpoint: str | Path, name: str) -> tuple[dict[str, Tensor], int]:
    """The weights called `name` and the checkpoint's step. Raises CheckpointError if they are not there."""
    checkpoint = Path(checkpoint)
    if name.startswith("posthoc_"):
        step = load_checkpoint(checkpoint, stems=()).step
        snapshots = Snapshots(checkpoint.resolve().parent.parent / "snapshots")
        try:
            return posthoc(snapshots, step=step, width=float(name.removeprefix("posthoc_"))), step
        except ValueError as error:
            raise CheckpointError(f"sampler.weights={name}: {error}") from None
    loaded = load_checkpoint(checkpoint, stems=(name,))
    if name not in loaded.tensors:
        there = sorted({stem_of(p) for p in checkpoint.glob("*.safetensors")} - {"optimizer", "objective"})
        raise CheckpointError(f"{checkpoint} has no weights called {name}; it has {', '.join(there)}")
    return loaded.tensors[name], loaded.step


@torch.no_grad()
def init_from(backbone: nn.Module, checkpoint: str | Path) -> None:
    """Take over the averaged weights of another run's checkpoint, of any resolution or number of stages.

    Tensors that match in name and shape are taken; the log names the others, which keep their fresh values. Raises
    CheckpointError if the checkpoint cannot be read, or nothing of it matches.
    """
    weights, step = read_weights(checkpoint, "ema")
    mine = backbone.state_dict()
    taken = [name for name, value in mine.items() if name in weights and weights[name].shape == value.shape]
    if not taken:
        raise CheckpointError(f"init_from={checkpoint}: none of its weights fits this backbone")
    for name in taken:
        mine[name].copy_(weights[name])
    logger.info("init_from: %d of %d tensors from %s, step %d", len(taken), len(mine), checkpoint, step)
    for name in sorted({*mine, *weights} - {*taken}):
        ours = tuple(mine[name].shape) if name in mine else "missing"
        theirs = tuple(weights[name].shape) if name in weights else "missing"
        logger.warning("init_from: not taken: %s (%s there, %s here)", name, theirs, ours)
