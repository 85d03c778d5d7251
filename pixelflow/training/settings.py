"""How long and how to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Parallel = Literal["none", "ddp", "fsdp"]
Attention = Literal["auto", "dense_groups", "varlen", "flash_attn"]
Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class TrainerSettings:
    """How long and how to train.

    max_steps: optimizer steps. batch_size: images per step, of all processes together. accumulate: parts of equal size
    that a process computes its share in, to save memory. grad_clip: largest norm of the gradient, null for none.
    warmup_steps: steps over which the learning rate rises linearly. precision: fp32, or bf16 for autocast with float32
    weights.
    log_every, save_every, grid_every: in steps, 0 for never; keep_checkpoints: how many of the newest stay;
    keep_every: those of multiples of so many steps stay as well, 0 for none. async_save: write them beside training.
    max_bad_steps: so many steps in a row without a finite loss and gradient end the run; each is skipped.
    rollbacks: how often the run goes back to its last checkpoint instead, and on with other data.
    parallel: how several processes share the work. ddp: each has all weights; fsdp: each has a share of them;
    none: refuses several. shard_size: processes that share one set of weights under fsdp, null for all.
    stall_seconds: several processes end when one has not moved for so long.
    compile: compile the blocks. activation_checkpointing: what is not kept for the backward pass, but computed again:
    nothing (none), all but the results of matrix products (selective), all but the blocks' inputs (full).
    attention: how a pack of several resolutions attends; auto takes the fastest here.
    profile_steps: steps that are traced, after five, 0 for none. device: "auto" takes a GPU where there is one.
    Raises ValueError for numbers out of range.
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
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("warmup_steps", "save_every", "grid_every", "keep_every", "rollbacks", "profile_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} must divide batch_size={self.batch_size}")
        for name in ("grad_clip", "shard_size", "stall_seconds"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(
                    f"{name}={value} must be above 0" + (", or null for none" if name == "grad_clip" else "")
                )

    def images_per_part(self, processes: int) -> int:
        """Images of one forward pass. Raises ValueError where processes and parts do not divide the batch."""
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
