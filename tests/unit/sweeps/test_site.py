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
