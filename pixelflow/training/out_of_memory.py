"""Out of memory, told by its shapes and by what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pixelflow.training.meter import peak_memory

if TYPE_CHECKING:
    from pixelflow.training.trainer import Trainer


class OutOfMemory(OSError):
    """The message says what was to be computed and which settings need less."""


@contextmanager
def explained_out_of_memory(trainer: Trainer) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no error class of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(_explain(trainer)) from error


def _explain(trainer: Trainer) -> str:
    s, cascade, world = trainer.settings, trainer.cascade, trainer.world
    images = s.batch_size // (world.size * s.accumulate)
    patch = int(trainer.backbone.patch_size)  # type: ignore[arg-type]
    sides = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    share = -(-images // len(sides))
    shapes = ", ".join(f"{share}x{(side // patch) ** 2} tokens ({side} px)" for side in sides)
    weights = sum(p.nbytes for p in trainer.network.parameters)
    held = weights * (4 + len(trainer.ema.names))  # weights, gradients, two moments, averages
    lower = [f"trainer.accumulate={2 * s.accumulate}"] if images % 2 == 0 else []
    if s.activation_checkpointing != "full":
        lower.append(
            "trainer.activation_checkpointing=" + ("selective" if s.activation_checkpointing == "none" else "full")
        )
    if s.precision == "fp32":
        lower.append("trainer.precision=bf16")
    if world.size > 1 and not trainer.network.sharded:
        lower.append("trainer.parallel=fsdp")
    lower.append("a smaller trainer.batch_size or data.image_size")
    return (
        f"out of memory at step {trainer.step + 1}: a forward pass of {images} images, {shapes}; weights, gradients, "
        f"optimizer and averages take {held / 2**30:.2f} GiB of {trainer.device}, of which "
        f"{peak_memory(trainer.device) / 2**30:.2f} GiB were in use. Use {', or '.join(lower)}"
    )
