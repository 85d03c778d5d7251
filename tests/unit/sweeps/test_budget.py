from __future__ import annotations

from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.sweeps.budget import check_budget, gpu_hours
from pixelflow.sweeps.manifest import SweepJob
from pixelflow.sweeps.plan import Planned
from pixelflow.sweeps.show import print_plan
from pixelflow.sweeps.site import Site

SITE = Site(
    gpus_per_node=4, timeout_min=120, evaluation={"timeout_min": 30}, table={"gpus_per_node": 4}, max_gpu_hours=17
)


def planned(*actions: str, job: str = "pipeline") -> list[Planned]:
    return [
        Planned(SweepJob(f"r{n}", f"/r{n}", job, [], f"{n}", 9), [], action, "new") for n, action in enumerate(actions)
    ]


def test_a_run_costs_its_training_and_its_evaluation() -> None:
    (entry,) = planned("submit")
    assert gpu_hours(entry, SITE, "slurm") == 4 * 2 + 0.5
    assert gpu_hours(entry, SITE, "local") == 4 * 2  # where one job does both
    (training,) = planned("submit", job="train")
    assert gpu_hours(training, SITE, "slurm") == 4 * 2


def test_the_budget_counts_what_is_due() -> None:
    check_budget(planned("submit", "resume", *["skip"] * 20), SITE, "slurm")
    with pytest.raises(
        UserError, match=r"^the due runs \(3\) may use 25\.5 GPU hours, more than site\.max_gpu_hours=17"
    ):
        check_budget(planned("submit", "resume", "retry", "skip"), SITE, "slurm")
    check_budget(planned("submit") * 99, Site(gpus_per_node=4), "slurm")


def test_the_plan_shows_the_hours_that_the_budget_counts(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(planned("submit", "skip"), SITE, Path("/s"), "slurm")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-2] == "8.5" and lines[2].split()[-2] == "0.0"
    assert "1 of 2 jobs" in lines[3] and "at most 8.5 GPU hours" in lines[3]
