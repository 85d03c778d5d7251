"""An error message for exhausted memory that names the shapes of the step and the settings that need less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pixelflow.errors import WorkFailed
from pixelflow.flow.cascade import Cascade
from pixelflow.training.meter import peak_memory
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState


class OutOfMemory(WorkFailed):
    """The memory of the device is not sufficient. The message names the shapes and the settings that need less."""


@contextmanager
def explained_out_of_memory(
    state: TrainingState, cascade: Cascade, settings: TrainerSettings, *, step: int
) -> Iterator[None]:
    """Raises OutOfMemory in place of torch's error. The arguments describe the step that the block computes."""
    try:
        yield
    except RuntimeError as error:
        # The allocator of the CPU raises a plain RuntimeError.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(_explain(state, cascade, settings, step)) from error


def _explain(state: TrainingState, cascade: Cascade, s: TrainerSettings, step: int) -> str:
    network, world = state.network, state.network.world
    images = s.batch_size // (world.size * s.accumulate)
    patch = int(network.backbone.patch_size)  # type: ignore[arg-type]
    sides = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    share = -(-images // len(sides))
    shapes = ", ".join(f"{share}x{(side // patch) ** 2} tokens ({side} px)" for side in sides)
    weights = sum(p.nbytes for p in network.parameters)
    held = weights * (4 + len(state.ema.names))  # weights, gradients, two moments, averages
    lower = [f"accumulate={2 * s.accumulate}"] if images % 2 == 0 else []
    if s.activation_checkpointing != "full":
        lower.append("activation_checkpointing=" + ("selective" if s.activation_checkpointing == "none" else "full"))
    if s.precision == "fp32":
        lower.append("precision=bf16")
    if world.size > 1 and not network.sharded:
        lower.append("parallel=fsdp")
    lower.append("a smaller batch_size or image_size")
    return (
        f"out of memory at step {step}: a forward pass of {images} images, {shapes}; weights, gradients, "
        f"optimizer and averages take {held / 2**30:.2f} GiB of {network.device}, of which "
        f"{peak_memory(network.device) / 2**30:.2f} GiB were in use. Use {', or '.join(lower)}"
    )
