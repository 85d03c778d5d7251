from __future__ import annotations

import torch

from pixelflow.processes import World, _rendezvous, processes, world_of


def test_alone() -> None:
    assert world_of({}) == World(0, 1, 0)
    with processes(torch.device("cpu")) as (world, device):
        assert (world, device) == (World(), torch.device("cpu"))
        assert world.broadcast([1]) == [1] and world.gather("x") == ["x"]


def test_torchrun() -> None:
    assert world_of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == World(5, 8, 1)


def test_slurm_steps_of_several_tasks() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
    assert world_of(step) == World(3, 4, 1)
    # A plain batch script has SLURM_NTASKS too, but its python is alone: waiting for the others would be forever.
    assert world_of({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) == World()


def test_where_a_slurm_step_meets() -> None:
    assert _rendezvous({"MASTER_ADDR": "node1"}) == {}
    found = _rendezvous({"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "1"})
    assert found["MASTER_ADDR"] == "localhost" and 20000 <= int(found["MASTER_PORT"]) < 60000
    assert found != _rendezvous({"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "2"})
