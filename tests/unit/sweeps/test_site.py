from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from pixelflow.sweeps.site import Site


def test_queue_settings_have_the_names_of_hydra_submitit_launcher() -> None:
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    ours = {
        *("srun_args", "max_array_size", "requeue", "max_restarts", "max_stalls", "max_attempts", "evaluation"),
        *("max_gpu_hours", "uncommitted", "processes", "table"),
    }
    assert {field.name for field in fields(Site)} - ours <= {field.name for field in fields(SlurmQueueConf)}


def test_one_task_a_gpu() -> None:
    assert (Site().tasks, Site(gpus_per_node=4).tasks, Site(tasks_per_node=2).tasks) == (1, 4, 2)


def test_gpu_hours() -> None:
    assert Site(nodes=2, gpus_per_node=4, timeout_min=90).gpu_hours == 12


@pytest.mark.parametrize(
    ("settings", "processes", "gpus"),
    [
        ({"gres": "gpu:2"}, 2, 2),
        ({"gres": "gpu:a100:4,nvme:1"}, 4, 4),
        ({"gres": "gpu"}, 1, 1),
        ({"gres": "nvme:1"}, 1, 0),
        ({"gres": "gpu:1g.10gb:2"}, 2, 2 / 7),
        ({"gres": "gpu:a100_3g.20gb:1,gpu:2g.10gb:1"}, 2, 5 / 7),
        ({"gres": "gpu:1g.6gb:4"}, 4, 1),  # of an A30, which has four slices
        ({"gres": "gpu:4", "gpus_per_node": 2}, 2, 2),
        ({"gres": "gpu:4", "tasks_per_node": 1}, 1, 4),
        ({"additional_parameters": {"gpus-per-task": 1}, "tasks_per_node": 3}, 3, 3),
        ({"additional_parameters": {"gpus": "a100:8"}, "nodes": 2}, 4, 8),
        ({"additional_parameters": {"gpus": 0}}, 1, 0),
        ({"additional_parameters": {"gpus-per-node": None}}, 1, 0),
    ],
)
def test_a_process_for_each_gpu_or_slice_and_a_slice_is_a_part_of_a_gpu(
    settings: dict[str, Any], processes: int, gpus: float
) -> None:
    site = Site(**settings, timeout_min=60)
    assert site.tasks == processes
    assert site.gpu_hours == pytest.approx(gpus)


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, 0),
        ({"tasks_per_node": 4, "nodes": 2}, 0),
        ({"gpus_per_node": 8, "tasks_per_node": 8, "nodes": 2}, 1),
        ({"gres": "gpu:a100:4,nvme:1"}, 1),
    ],
)
def test_an_evaluation_is_one_process_with_one_gpu_where_the_training_has_some(
    settings: dict[str, Any], gpus: int
) -> None:
    evaluation = Site(**settings, evaluation={}).for_evaluation()
    assert (evaluation.nodes, evaluation.tasks, evaluation.gpus) == (1, 1, gpus)


def test_an_evaluation_has_what_it_asks_for() -> None:
    site = Site(gres="gpu:a100:4,nvme:1", evaluation={"gpus_per_node": 2, "tasks_per_node": 1})
    evaluation = site.for_evaluation()
    assert (evaluation.tasks, evaluation.gpus, evaluation.gres) == (1, 2, "nvme:1")


@pytest.mark.parametrize("gpus", [{"gpus_per_node": 4}, {"gres": "gpu:4"}, {"additional_parameters": {"gpus": 4}}])
def test_the_table_asks_for_no_gpu_and_leaves_the_partition_of_those_that_do(gpus: dict[str, Any]) -> None:
    table = Site(partition="gpu", **gpus).for_table()
    assert (table.gpus, table.gres, table.partition, table.gpu_hours) == (0, None, None, 0)
    chosen = Site(partition="gpu", **gpus, table={"partition": "cpu", "gpus_per_node": 0}).for_table()
    assert (chosen.gpus, chosen.partition) == (0, "cpu")
    assert Site(partition="fast", gres="nvme:1").for_table().partition == "fast"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nodes": 0}, "nodes=0 must be at least 1"),
        ({"gpus_per_node": -1}, "gpus_per_node=-1 must be at least 0"),
        ({"timeout_min": 2, "signal_delay_s": 120}, "signal_delay_s=120 must be less than the time limit"),
        ({"cpus_per_task": 0}, "cpus_per_task=0 must be at least 1"),
        ({"mem_gb": -4}, "mem_gb=-4 must be at least 1"),
        ({"tasks_per_node": 0}, "tasks_per_node=0 must be at least 1"),
        ({"timeout_min": 0}, "timeout_min=0 must be at least 1"),
        ({"max_gpu_hours": -1.0}, "max_gpu_hours=-1.0 must be at least 0"),
        ({"max_gpu_hours": float("nan")}, "max_gpu_hours=nan must be"),
        ({"partition": "gpu\nrm x"}, "partition=.* must be one line of text"),
        ({"account": ""}, "account='' must be one line of text; leave it out for none"),
        ({"srun_args": ["--mpi=none", "a\nb"]}, r"srun_args\[1\]=.* must be one line"),
        ({"additional_parameters": {"comment": "a\nb"}}, r"additional_parameters\.comment=.* must be one line"),
        ({"evaluation": {"gpus": 1}}, "evaluation: 'gpus' is not a setting of a site"),
        ({"evaluation": {"nodes": 0}}, "evaluation: nodes=0 must be at least 1"),
        ({"table": {"partitions": "cpu"}}, "table: 'partitions' is not a setting of a site"),
        ({"evaluation": {"timeout_min": 1}}, "evaluation: signal_delay_s=120 must be less"),
        ({"evaluation": {"gpus_per_node": -1}}, "evaluation: gpus_per_node=-1 must be at least 0"),
        ({"additional_parameters": {"mail type\n": 1}}, "not a long option of sbatch"),
    ],
)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Site(**wrong)
