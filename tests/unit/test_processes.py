from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelflow.errors import UserError
from pixelflow.processes import World, _rendezvous, choose_slice, held, processes, shared_errors, world_of


def test_alone() -> None:
    assert world_of({}) == World(0, 1, 0)
    with processes(torch.device("cpu")) as (world, device):
        assert (world, device) == (World(), torch.device("cpu"))
        assert world.broadcast([1]) == [1] and world.gather("x") == ["x"]


def test_torchrun() -> None:
    assert world_of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == World(5, 8, 1)


@pytest.mark.parametrize(
    ("visible", "ranks"),
    [
        ("MIG-a,MIG-b", ["MIG-a", "MIG-b", "MIG-a"]),
        ("MIG-a", ["MIG-a"] * 3),
        ("GPU-a,GPU-b", ["GPU-a,GPU-b"] * 3),
        ("0,1", ["0,1"] * 3),
    ],
)
def test_a_process_has_one_slice_and_all_gpus(visible: str, ranks: list[str]) -> None:
    """CUDA shows no more than one slice to a process, and any number of GPUs."""
    environments = [{"CUDA_VISIBLE_DEVICES": visible} for _ in ranks]
    for rank, environment in enumerate(environments):
        choose_slice(environment, rank)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ranks
    choose_slice(nothing := {}, 1)
    assert nothing == {}


def test_slurm_steps_of_several_tasks() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
    assert world_of(step) == World(3, 4, 1)
    # A plain batch script has SLURM_NTASKS too, but its python is alone: waiting for the others would be forever.
    assert world_of({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) == World()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "a"), ("RANK", "2"), ("RANK", "-1"), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "1e3"), ("LOCAL_RANK", ""),
     ("MASTER_PORT", "abc"), ("MASTER_PORT", "65536"),
     ("SLURM_STEP_NUM_TASKS", "many"), ("SLURM_PROCID", "4"), ("SLURM_LOCALID", "x")],
)  # fmt: skip
def test_variables_that_are_no_numbers_are_named(name: str, value: str) -> None:
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    with pytest.raises(UserError, match=rf"^the environment variable {name}='{value}' must be an integer"):
        world_of((slurm if name.startswith("SLURM") else torchrun) | {name: value})


@pytest.mark.parametrize(("given", "lacking"), [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")])
def test_half_of_the_variables_of_torchrun_is_no_single_process(given: str, lacking: str) -> None:
    with pytest.raises(UserError, match=rf"^the environment variable {lacking}, which is not set, must be an integer"):
        world_of({given: "1"})


def test_where_a_slurm_step_meets() -> None:
    assert _rendezvous({"MASTER_ADDR": "node1"}) == {}
    found = _rendezvous({"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "1"})
    assert found["MASTER_ADDR"] == "localhost" and 20000 <= int(found["MASTER_PORT"]) < 60000
    assert found != _rendezvous({"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "2"})


# --- errors of two processes --------------------------------------------------------------------------------------


def in_two(work: Callable[[World], Any]) -> list[str]:
    """What each of two processes returns, or the class and message of its error, by rank."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()

    def run(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
        try:
            with processes(torch.device("cpu")) as (world, _):
                result = str(work(world))
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        results.put((rank, result))

    started = [context.Process(target=run, args=(rank,)) for rank in range(2)]
    for process in started:
        process.start()
    by_rank = dict(results.get() for _ in started)
    for process in started:
        process.join()
    return [by_rank[0], by_rank[1]]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_a_block_without_communication_is_raised_in_all_after_all_have_worked(rank: int) -> None:
    def work(world: World) -> str:
        done = ""
        try:
            with shared_errors(world, wait=True):
                if world.rank == rank:
                    raise UserError("the images are gone\nand more")
                done = "worked"
        except Exception as error:
            done += f" {type(error).__name__}: {error}"
        return f"{done}, {world.gather(world.rank)}"  # they still work together

    results = in_two(work)
    assert results[rank] == " UserError: the images are gone\nand more, [0, 1]"
    assert results[1 - rank] == f"worked ProcessFailed: process {rank + 1} of 2: the images are gone, [0, 1]"


def test_an_error_of_one_process_ends_the_collective_operation_of_the_other() -> None:
    def work(world: World) -> list[int]:
        if world.rank == 1:
            raise RuntimeError("a bug")
        return world.gather(0)

    assert in_two(work) == ["ProcessFailed: process 2 of 2: a bug", "RuntimeError: a bug"]


def test_sums_shares_and_flags_of_two() -> None:
    def work(world: World) -> Any:
        a, b = torch.full((2,), 1.0 + world.rank), torch.tensor(10.0 * world.rank)
        world.add(a, b)
        return a.tolist(), b.item(), world.any(world.rank == 1), world.any(False), world.slice(6)

    assert in_two(work) == [f"([3.0, 3.0], 10.0, True, False, {part!r})" for part in (slice(0, 3), slice(3, 6))]


@pytest.mark.parametrize(("written", "left"), [(None, []), ("images.npz", ["samples"])])
def test_what_a_failed_job_made_and_did_not_use_is_removed(
    tmp_path: Path, written: str | None, left: list[str]
) -> None:
    folder = tmp_path / "samples" / "a"
    with pytest.raises(UserError), held(folder, World()):
        if written:
            (folder / written).write_text("x")
        raise UserError("x")
    assert [path.name for path in tmp_path.iterdir()] == left


def test_a_folder_that_was_there_stays_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError), held(tmp_path, World()):
        raise UserError("x")
    assert tmp_path.is_dir()
