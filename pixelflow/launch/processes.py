"""The processes of one job: torchrun's, SLURM's, or this one alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: they work on pieces of different cost, without a word in between."""


@dataclass(frozen=True)
class World:
    """rank: of this process among `size`. local_rank: among those of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, to all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Everyone's values, to all, by rank; also a barrier."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def world_of(environment: Mapping[str, str]) -> World:
    """From the variables of torchrun, or of a SLURM step with several tasks; else alone."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank = int(environment["RANK"])
        return World(rank, int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", rank)))
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun, not in a plain batch script
        size = int(environment["SLURM_STEP_NUM_TASKS"])
        return World(int(environment["SLURM_PROCID"]), size, int(environment["SLURM_LOCALID"]))
    return World()


def _rendezvous(environment: Mapping[str, str]) -> dict[str, str]:
    """Where a SLURM step's processes meet: its first machine, a port by its job's number."""
    if "MASTER_ADDR" in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
    if nodes != "localhost":
        found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        nodes = found.stdout.split()[0]
    number = int(environment.get("SLURM_JOB_ID", 0)) * 7 + int(environment.get("SLURM_STEP_ID", 0))
    return {"MASTER_ADDR": nodes, "MASTER_PORT": str(20000 + number % 40000)}


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """The world, and this process's own device. Messages go over gloo on a CPU and NCCL on GPUs."""
    world = world_of(os.environ)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if world.size == 1:
        yield world, device
        return
    os.environ.update(_rendezvous(os.environ))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    try:
        yield world, device
    finally:
        dist.destroy_process_group()
