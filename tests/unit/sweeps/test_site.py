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
        ({"gpus_per_node": -1}, "gpus_per_node=-1 must be 0 or more"),
        ({"timeout_min": 2, "signal_delay_s": 120}, "signal_delay_s=120 must be less than the time limit"),
        ({"additional_parameters": {"mail type\n": 1}}, "not a long option of sbatch"),
    ],
)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Site(**wrong)
