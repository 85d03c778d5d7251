"""The processes of one job, as started by torchrun or by SLURM, or this process alone.

`processes` opens the process group and gives each process its `World`. `shared_errors` raises an error of one process
in all of them.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pixelflow.errors import Interrupted, UserError, WorkFailed
from pixelflow.files import locked, make_folder

LOCK = ".lock"
"""File whose lock a job holds while it works on a folder."""

COLLECTIVE_TIMEOUT = timedelta(days=7)
"""Time limit of a collective operation. It is long because processes may sample or measure for hours between two."""

FAILURE_TIMEOUT = timedelta(seconds=10)
"""Time that a failed process leaves the others to read its message, and that they wait for such a message."""

EXIT_TIMEOUT = timedelta(minutes=10)
"""Time that rank 0, which holds the job's store, waits at the end of its work for the other processes."""

_LOST_CONNECTION = re.compile(r"gloo|nccl|connection|broken pipe|socket", re.IGNORECASE)


class ProcessFailed(WorkFailed):
    """Another process of the job failed, so this one ends as well. The message is that of the other process."""


@dataclass(frozen=True)
class World:
    """This process and its place among all processes of the job.

    Every method is a collective operation: all processes must call it. With one process it returns at once.

    Args:
        rank: Number of this process, from 0 to `size` - 1.
        size: Number of processes.
        local_rank: Number of this process among those of its machine.
        store: Key-value store that all processes read and write (None for one process). A client serves one thread
            at a time; another thread must use `store.clone()`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = field(default=None, compare=False, repr=False)

    def broadcast(self, value: Any) -> Any:
        """Returns the value of rank 0 in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, ordered by rank, in every process. It is also a barrier."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` is true in any process. The message uses gloo, so no GPU is synchronised."""
        if self.size == 1:
            return flag
        box = torch.tensor([int(flag)])
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return bool(box.item())

    def add(self, *tensors: Tensor) -> None:
        """Replaces each tensor by its sum over the processes, in one message. All must have one dtype and device."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def slice(self, total: int) -> slice:
        """Returns the contiguous share of this process among `total` items, a multiple of `size`. Not collective."""
        share = total // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


def world_of(environment: Mapping[str, str]) -> World:
    """Reads rank and size from the variables of torchrun, or of a SLURM step with several tasks.

    Args:
        environment: Environment variables, such as `os.environ`.

    Returns:
        The world without a store; a world of one process if neither set of variables is present.

    Raises:
        UserError: A variable is not a number, or does not fit the others.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        size = _number(environment, "WORLD_SIZE", 1)
        rank = _number(environment, "RANK", 0, size)
        local = _number(environment, "LOCAL_RANK", 0, size) if "LOCAL_RANK" in environment else rank
        if size > 1 and "MASTER_PORT" in environment:
            _number(environment, "MASTER_PORT", 1, 2**16, "the end of the ports")
        return World(rank, size, local)
    if "SLURM_STEP_NUM_TASKS" in environment:  # set by srun, not in a plain batch script
        size = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
        if size > 1:
            rank, local = (_number(environment, name, 0, size) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
            return World(rank, size, local)
    return World()


def choose_slice(environment: MutableMapping[str, str], local_rank: int) -> None:
    """Leaves a process one of several MIG slices in CUDA_VISIBLE_DEVICES.

    CUDA shows the first slice only, so that all processes of a machine would share it. Call this before CUDA is used.

    Args:
        environment: Environment variables, such as `os.environ`.
        local_rank: Number of this process among those of its machine.
    """
    slices = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(slices) > 1 and all(name.startswith("MIG-") for name in slices):
        environment["CUDA_VISIBLE_DEVICES"] = slices[local_rank % len(slices)]


def _number(
    environment: Mapping[str, str], name: str, least: int, end: int | None = None, of: str = "the number of processes"
) -> int:
    """Returns an environment variable as an integer that is at least `least` and below `end`."""
    text = environment.get(name, "")
    number = int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else -1
    if number < least or (end is not None and number >= end):
        limit = "" if end is None else f" below {of}, {end}"
        given = f"{name}={text!r}" if name in environment else f"{name}, which is not set,"
        raise UserError(
            f"the environment variable {given} must be an integer of at least {least}{limit}; unset it, or "
            "start the processes with torchrun or srun"
        )
    return number


def _rendezvous(environment: Mapping[str, str]) -> dict[str, str]:
    """Address for the processes of a SLURM step: its first machine, and a port derived from its job's number."""
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
    """Opens the process group of the job, with gloo for tensors on a CPU and NCCL for those on GPUs.

    Inside the block errors are shared (see `shared_errors`). A nested call uses the group that is open already.

    Args:
        device: Device of the job; "cuda" without an index selects one GPU for each process of a machine.

    Yields:
        The world, and the device of this process.
    """
    world = world_of(os.environ)
    if device.type == "cuda" and device.index is None:
        choose_slice(os.environ, world.local_rank)
        device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if world.size == 1:
        yield world, device
        return
    if dist.is_initialized():
        yield replace(world, store=_job_store()), device
        return
    if world.rank:  # rank 0 logs for all
        logging.getLogger("pixelflow").setLevel(logging.WARNING)
    os.environ.update(_rendezvous(os.environ))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=COLLECTIVE_TIMEOUT)
    except dist.DistError as error:
        place = f"MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ.get('MASTER_PORT')}"
        reason = str(error).splitlines()[0]
        raise WorkFailed(f"the {world.size} processes could not meet at {place}: {reason}") from error
    world = replace(world, store=_job_store())
    try:
        with shared_errors(world):
            yield world, device
    except BaseException:
        _leave_last(world, FAILURE_TIMEOUT)
        raise  # without destroying the group, which could wait for a process that no longer exists
    _leave_last(world, EXIT_TIMEOUT)
    dist.destroy_process_group()


def _job_store() -> dist.Store:
    return dist.PrefixStore("pixelflow", dist.distributed_c10d._get_default_store().clone())


@contextmanager
def shared_errors(world: World, *, wait: bool = False) -> Iterator[None]:
    """Raises an error of any process in all processes.

    The process whose code failed raises its own error; the others raise `ProcessFailed` with that error's message.
    There are two ways for the others to learn of it:

    - A block that contains collective operations (`wait=False`): the message is written to the job's store. Another
      process notices when its next collective operation fails, and then reads the message.
    - A block without collective operations (`wait=True`): every process completes its own work, and all compare their
      results at the end of the block. Nothing in the block may communicate.

    Args:
        world: The processes that share errors.
        wait: Whether all processes wait for each other at the end of the block.

    Raises:
        ProcessFailed: Another process failed, or the connection to it was lost.
    """
    if world.size == 1:
        yield
        return
    if wait:
        yield from _compared(world)
        return
    try:
        yield
    except (Interrupted, ProcessFailed):
        raise  # all processes know of it already
    except BaseException as error:
        # A lost connection is usually the effect of another process's failure, whose message is on its way.
        if _lost_connection(error) and not _message_arrives(world):
            raise ProcessFailed(f"{_name(world)} lost the connection to the others: {error}") from None
        mine = _message(world, error)
        first = world.store.compare_set("failure", "", mine).decode()
        if first != mine:
            raise ProcessFailed(first) from None
        raise


def _compared(world: World) -> Iterator[None]:
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    messages = world.gather(None if failure is None else _message(world, failure))
    if failure is not None:
        raise failure
    for message in filter(None, messages):
        raise ProcessFailed(message)


def _name(world: World) -> str:
    return f"process {world.rank + 1} of {world.size}"


def _message(world: World, error: BaseException) -> str:
    return f"{_name(world)}: {(str(error) or type(error).__name__).splitlines()[0]}"


def _lost_connection(error: BaseException) -> bool:
    if isinstance(error, WorkFailed) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or _LOST_CONNECTION.search(str(error)) is not None


def _message_arrives(world: World) -> bool:
    """Waits up to FAILURE_TIMEOUT for the message of another process."""
    try:
        world.store.wait(["failure"], FAILURE_TIMEOUT)
    except RuntimeError:
        return False
    return True


def _leave_last(world: World, timeout: timedelta) -> None:
    """Keeps rank 0, which may hold the store, alive until the others have left or the time is over."""
    try:
        if world.rank:
            world.store.set(f"left {world.rank}", "")
        else:
            world.store.wait([f"left {rank}" for rank in range(1, world.size)], timeout)
    except RuntimeError:  # the store or another process no longer exists
        return


@contextmanager
def held(folder: Path, world: World) -> Iterator[None]:
    """Locks a folder, so that one job at a time works on it; rank 0 holds the lock for all processes of the job.

    After an error the folders that were made for this are removed, unless the job has written something to them.
    """
    with ExitStack() as stack:
        with shared_errors(world, wait=True):
            if world.rank == 0:
                new = [path for path in (folder, *folder.parents) if not path.exists()]
                make_folder(folder)
                stack.enter_context(locked(folder / LOCK, patient=True))
                stack.enter_context(_removed_if_unused(folder, new))
        yield


@contextmanager
def _removed_if_unused(folder: Path, new: Sequence[Path]) -> Iterator[None]:
    """Removes the folders `new`, innermost first, after an error of a block that leaves only the lock in them."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a folder that holds something
            if new and folder.exists() and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
            for path in new:
                if path.exists():
                    path.rmdir()
        raise
