"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from pixelflow.limits import at_least

Parallel = Literal["none", "ddp", "fsdp"]
Attention = Literal["auto", "dense_groups", "varlen", "flash_attn"]
Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class TrainerSettings:
    """Length, batch size, precision and intervals of a training run.

    Args:
        max_steps: Number of optimizer steps.
        batch_size: Images per step, of all processes.
        accumulate: Number of parts of equal size that a process computes its share in, to save memory.
        grad_clip: Largest norm of the gradient; None for no clipping.
        warmup_steps: Steps over which the learning rate rises linearly.
        precision: "fp32", or "bf16" for autocast with float32 weights.
        log_every: Steps between two logs.
        save_every: Steps between two checkpoints; 0 for the last one only.
        grid_every: Steps between two sample grids; 0 for none.
        keep_checkpoints: Number of the newest checkpoints that are kept.
        keep_every: Checkpoints at multiples of this step are kept as well; 0 for none.
        async_save: Whether checkpoints are written in the background.
        max_bad_steps: Number of consecutive steps without a finite loss and gradient that end the run; each is skipped.
        rollbacks: How often the run returns to its last checkpoint instead, and continues with other data.
        parallel: Use of several processes. "ddp": each holds all weights; "fsdp": each holds a share of them;
            "none": several processes are refused.
        shard_size: Number of processes that share one set of weights under "fsdp"; None for all.
        stall_seconds: A job of several processes ends when one of them makes no progress for this time.
        compile: Whether the transformer blocks are compiled.
        activation_checkpointing: Activations that are recomputed in the backward pass. "none": none; "selective": all
            but the results of matrix products; "full": all but the inputs of the blocks.
        attention: Attention kernel for packs of several resolutions; "auto" measures which one is fastest.
        profile_steps: Number of steps that are traced, after five; 0 for none.
        device: Device name; "auto" selects a GPU if there is one.

    Raises:
        ValueError: A number is out of range.
    """

    max_steps: int
    batch_size: int
    accumulate: int = 1
    grad_clip: float | None = 1.0
    warmup_steps: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 50
    save_every: int = 1000
    grid_every: int = 0
    keep_checkpoints: int = 2
    keep_every: int = 0
    async_save: bool = True
    max_bad_steps: int = 5
    rollbacks: int = 0
    parallel: Parallel = "ddp"
    shard_size: int | None = None
    stall_seconds: float = 1800.0
    compile: bool = False
    activation_checkpointing: Checkpointing = "none"
    attention: Attention = "auto"
    profile_steps: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "accumulate", "keep_checkpoints", "log_every", "max_bad_steps"):
            at_least(1, **{name: getattr(self, name)})
        for name in ("warmup_steps", "save_every", "grid_every", "keep_every", "rollbacks", "profile_steps"):
            at_least(0, **{name: getattr(self, name)})
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} must divide batch_size={self.batch_size}")
        for name in ("grad_clip", "shard_size", "stall_seconds"):
            if (value := getattr(self, name)) is not None and not 0 < value < inf:
                raise ValueError(
                    f"{name}={value} must be above 0" + (", or null for none" if name == "grad_clip" else "")
                )

    def images_per_part(self, processes: int) -> int:
        """Returns the number of images of one forward pass.

        Args:
            processes: Number of processes of the job.

        Raises:
            ValueError: Processes and parts do not divide the batch, or the settings refuse several processes.
        """
        if self.parallel == "none" and processes > 1:
            raise ValueError(f"parallel=none, but there are {processes} processes; use parallel=ddp or fsdp")
        if self.batch_size % (processes * self.accumulate):
            raise ValueError(
                f"batch_size={self.batch_size} must be divisible by {processes} processes x "
                f"accumulate={self.accumulate}"
            )
        if self.shard_size is not None and processes % self.shard_size:
            raise ValueError(f"shard_size={self.shard_size} must divide the number of processes, {processes}")
        return self.batch_size // (processes * self.accumulate)
