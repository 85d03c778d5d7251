"""Searches while SLURM does not answer, with scripts in place of its commands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pixelflow.files import write_json
from pixelflow.runs.status import write_status
from pixelflow.sweeps import slurm, waiting
from pixelflow.sweeps.batch import RESULT
from pixelflow.sweeps.claims import Claim
from pixelflow.sweeps.launch import launch
from pixelflow.sweeps.manifest import SweepJob
from pixelflow.sweeps.requests import SweepRequest
from pixelflow.sweeps.slurm import NoAnswer
from tests.unit.sweeps.fake_slurm import FakeSlurm
from tests.unit.sweeps.test_launch import request_, tasks  # noqa: F401

AWAY = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens at each poll of a waiting command; it must not poll more often."""
    events: list[Callable[[], object]] = []
    monkeypatch.setattr(waiting, "pause", lambda seconds: events.pop(0)())
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    return events


def nothing() -> None:
    """A poll at which all stays as it is."""


@pytest.fixture
def run(tmp_path: Path) -> SweepJob:
    folder = tmp_path / "run"
    folder.mkdir()
    Claim("sweep", "t", "me", 0.0, "7").save(folder)
    write_status(folder, "running", step=2, job="train")
    return SweepJob("run", str(folder), "train", [], "x", 9)


def test_an_outage_of_any_length_is_waited_for(
    run: SweepJob,
    polls: list[Callable[[], object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Unknown is not gone: the run would be lost if SLURM's silence were taken for an empty queue."""
    commands = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{commands.folder}:/usr/bin:/bin")
    commands.put("squeue", AWAY)
    polls += [nothing] * 30
    polls += [
        lambda: commands.put("squeue", "echo '7|RUNNING|None|n1|5:00'"),
        lambda: commands.put("squeue", AWAY),
        nothing,
    ]
    polls += [lambda: write_status(run.path, "finished", job="train")]
    polls += [lambda: commands.put("squeue", "echo '7|COMPLETED|None|n1|'")]
    with caplog.at_level(logging.WARNING):
        (state,) = waiting.follow([run], [])
    assert state.state == "finished" and not polls
    assert [record.message.count("Unable to contact") for record in caplog.records] == [1, 1]  # once for each outage


def test_a_cancelled_run_stays_cancelled_after_slurm_has_forgotten_it(
    run: SweepJob, polls: list[Callable[[], object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is "interrupted", and a search would submit it again."""
    other = replace(run, name="other", folder=str(tmp_path / "other"))
    other.path.mkdir()
    Claim("sweep", "t", "me", 0.0, "8").save(other.path)
    queue = {"7": slurm.QueueEntry("CANCELLED"), "8": slurm.QueueEntry("RUNNING")}
    monkeypatch.setattr(slurm, "queue", lambda *_: queue)
    write_status(run.path, "interrupted", "saved at step 2", job="train")
    write_status(other.path, "running", job="train")
    polls += [lambda: queue.pop("7"), lambda: write_status(other.path, "finished", job="train")]
    states = waiting.follow([run, other], [])
    assert [state.state for state in states] == ["cancelled", "finished"] and not polls


def test_a_trial_is_pruned_once_slurm_answers(
    run: SweepJob, polls: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then its study is not told, since its job still runs."""
    told: list[Any] = []
    trial = SimpleNamespace(
        should_prune=lambda: True, study=SimpleNamespace(tell=lambda *_, **about: told.append(about))
    )
    states, answers = ["RUNNING"] * 3, [False, False, True]
    monkeypatch.setattr(slurm, "queue", lambda *_: {"7": slurm.QueueEntry(states.pop(0) if states else "CANCELLED")})

    def cancel(jobs: list[str]) -> None:
        if not answers.pop(0):
            raise NoAnswer("scancel: no answer")

    monkeypatch.setattr(slurm, "cancel", cancel)
    polls += [lambda: told.append("later")] * 2 + [nothing]
    (state,) = waiting.follow([run], [(trial, "loss")])
    assert state.state == "pruned" and told[:2] == ["later"] * 2 and len(told) == 3


def test_trials_are_submitted_when_slurm_answers_and_again_when_they_are_lost(
    request_: SweepRequest,  # noqa: F811
    fake: FakeSlurm,
    polls: list[Callable[[], object]],
) -> None:
    """The controller is away when the trials are submitted; then a trial is killed together with its supervisor."""
    fake.refuse(0, "echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2; exit 1")
    fake.states["101_0"] = "FAILED"

    def finish(*numbers: int) -> None:
        for number in numbers:
            (folder,) = request_.experiment_folder.glob(f"sweep-*/tasks/seed-{number}-*")
            write_status(folder, "finished", job="sample")
            write_json(folder / RESULT, number)

    polls += [nothing, lambda: fake.refuse(None), lambda: finish(1), lambda: finish(0)]
    found = launch(replace(request_, wait=True, search="study"), tasks(2))
    assert found == [{"value": 0}, {"value": 1}] and not polls
    assert ["--array=0-1" in script for script in fake.scripts] == [True, False]  # the second time the lost one only


def test_a_trial_that_is_lost_every_time_is_an_error(
    request_: SweepRequest,  # noqa: F811
    fake: FakeSlurm,
) -> None:
    fake.states |= {str(number): "FAILED" for number in range(101, 120)}
    (found,) = launch(replace(request_, wait=True, search="study"), tasks(1))
    assert "is lost" in found["error"] and len(fake.scripts) == 1 + request_.site.max_attempts
