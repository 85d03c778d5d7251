from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from pixelflow.sweeps.site import Site


def test_one_task_a_gpu() -> None:
    lines = Site(nodes=2, gpus_per_node=4, timeout_min=90, mem_gb=100).sbatch_lines()
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4", "#SBATCH --time=90",
            "#SBATCH --mem=100G", "#SBATCH --requeue", "#SBATCH --signal=USR2@120"} <= set(lines)  # fmt: skip
    assert not [line for line in lines if "partition" in line or "None" in line]


def test_queue_settings_have_the_names_of_hydra_submitit_launcher() -> None:
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    ours = {
        *("srun_args", "max_array_size", "requeue", "max_restarts", "max_stalls", "max_attempts", "evaluation"),
        *("max_gpu_hours", "uncommitted", "processes"),
    }
    assert {field.name for field in fields(Site)} - ours <= {field.name for field in fields(SlurmQueueConf)}


def test_a_cpu_job_is_one_task() -> None:
    assert "#SBATCH --ntasks-per-node=1" in Site().sbatch_lines()
    assert Site(tasks_per_node=2).tasks == 2


def test_gpu_hours() -> None:
    assert Site(nodes=2, gpus_per_node=4, timeout_min=90).gpu_hours == 12


def test_other_options_are_sbatchs_own() -> None:
    lines = Site(additional_parameters={"mail-type": "END"}, requeue=False).sbatch_lines()
    assert "#SBATCH --mail-type=END" in lines and "#SBATCH --no-requeue" in lines


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
        ({"evaluation": {"gpus_per_node": -1}}, "evaluation=.*: gpus_per_node=-1 must be at least 0"),
        ({"evaluation": {"gpus": 1}}, "evaluation=.*gpus"),
        ({"evaluation": {"nodes": "two"}}, "evaluation=.*"),
        ({"evaluation": {"timeout_min": 1}}, "evaluation=.*signal_delay_s=120 must be less"),
        ({"additional_parameters": {"mail type\n": 1}}, "not a long option of sbatch"),
    ],
)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Site(**wrong)
