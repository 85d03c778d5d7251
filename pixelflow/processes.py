"""The processes of one job: torchrun's, SLURM's, or this one alone.

What ends one process ends all, with its message: see `together`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pixelflow.errors import Interrupted
from pixelflow.files import locked

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: they work on pieces of different cost, without a word in between."""


LAST_WORDS = timedelta(seconds=10)
"""How long a process that goes down waits for the others to hear why, or for another's reason."""

LAST_WORK = timedelta(minutes=10)
"""How long a process that has done its part waits for the others to do theirs."""


class ProcessFailed(OSError):
    """Another process of the job ended, and so must this one; the message is the other's."""


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
    """The world, and this process's own device. Messages go over gloo on a CPU and NCCL on GPUs.

    Inside another of its kind, it is that one.
    """
    world = world_of(os.environ)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if world.size == 1 or dist.is_initialized():
        yield world, device
        return
    if world.rank:  # one voice is enough
        logging.getLogger("pixelflow").setLevel(logging.WARNING)
    os.environ.update(_rendezvous(os.environ))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    store = job_store()  # now: who goes first may take with it what later ones would connect to
    try:
        yield world, device
    except BaseException:
        _leave_last(world, store, LAST_WORDS)
        raise  # without taking the group down, which could wait for a process that is gone
    _leave_last(world, store, LAST_WORK)
    dist.destroy_process_group()


def job_store() -> dist.Store:
    """Words that all processes of the job can read, for one thread."""
    return dist.PrefixStore("pixelflow", dist.distributed_c10d._get_default_store().clone())


@contextmanager
def together(world: World) -> Iterator[None]:
    """An error inside is told to the other processes, and theirs is raised here, as ProcessFailed."""
    if world.size == 1:
        yield
        return
    store = job_store()
    try:
        yield
    except (Interrupted, ProcessFailed):
        raise  # known to all
    except BaseException as error:
        if isinstance(error, RuntimeError) and not _told(store):  # perhaps no more than the echo of another's end
            raise ProcessFailed(
                f"process {world.rank + 1} of {world.size} lost touch with the others: {error}"
            ) from None
        mine = f"process {world.rank + 1} of {world.size}: {(str(error) or type(error).__name__).splitlines()[0]}"
        first = store.compare_set("failure", "", mine).decode()
        if first != mine:
            raise ProcessFailed(first) from None
        raise


def after_first(world: World) -> None:
    """All go on when rank 0 gets here; if it ends before, the others hear why instead of waiting."""
    if world.size == 1:
        return
    store = job_store()
    if world.rank == 0:
        store.set("open", "")
    while not store.check(["open"]):
        if store.check(["failure"]):
            raise ProcessFailed(store.get("failure").decode())
        time.sleep(0.05)


def _told(store: dist.Store) -> bool:
    """Whether another process says, soon, why it ends."""
    try:
        store.wait(["failure"], LAST_WORDS)
    except RuntimeError:
        return False
    return True


def _leave_last(world: World, store: dist.Store, patience: timedelta) -> None:
    """Rank 0 may hold the words of all; it goes when the others have gone, or have had the time."""
    try:
        if world.rank:
            store.set(f"left {world.rank}", "")
        else:
            store.wait([f"left {rank}" for rank in range(1, world.size)], patience)
    except RuntimeError:  # the store, or somebody, is gone already
        return


@contextmanager
def held(folder: Path, world: World) -> Iterator[None]:
    """One job at a time works on a folder; rank 0 holds it for all processes of the job."""
    if world.rank:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        yield
