from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.reporting.presentation import Presentation
from pixelflow.sweeps.manifest import Submission, Sweep, SweepJob


def submission(token: str, time: float) -> Submission:
    return Submission(token, time, "me", "here", "python run.py", "slurm", "abc", "/code", False)


def jobs(*numbers: int) -> list[SweepJob]:
    return [SweepJob(f"run-{n}", f"/runs/run-{n}", "train", [f"seed={n}"], str(n), 9) for n in numbers]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    sweep = Sweep(tmp_path / "sweep", "e", "d", presentation=Presentation(swept=("seed",)), mlflow={"uri": "x"})
    sweep.add(submission("b", 1.0), jobs(0, 1))
    return sweep


def test_a_submission_writes_what_is_new_and_changes_no_earlier_one(sweep: Sweep) -> None:
    """Its files list the runs that it added, however many the sweep has."""
    first = {path: path.read_bytes() for path in sweep.submission_folder("b").iterdir()}
    changed = replace(jobs(1)[0], evaluations=["evaluation/x.json"])
    sweep.add(submission("a", 2.0), [*jobs(0), changed, *jobs(2)])
    sweep.update(slurm_ids=["7"], table="8")
    assert first == {path: path.read_bytes() for path in first}
    listed = json.loads((sweep.submission_folder("a") / "runs.json").read_text())
    assert [entry["name"] for entry in listed] == ["run-1", "run-2"]
    assert Sweep.load(sweep.folder) == sweep
    assert [entry.token for entry in sweep.submissions] == ["b", "a"]  # by time, not by name
    assert sweep.jobs["run-1"].evaluations and list(sweep.jobs) == ["run-0", "run-1", "run-2"]


def test_a_submission_that_a_crash_cut_is_none(sweep: Sweep) -> None:
    """The runs were written, and not that they were submitted: the command submits them again."""
    sweep.add(submission("c", 2.0), jobs(2, 3))
    (sweep.submission_folder("c") / "submission.json").unlink()
    again = Sweep.load(sweep.folder)
    assert list(again.jobs) == ["run-0", "run-1"] and len(again.submissions) == 1


def test_a_manifest_of_an_earlier_version_says_what_to_do(sweep: Sweep) -> None:
    path = sweep.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"jobs": [], "submissions": []}))
    with pytest.raises(UserError, match=r"sweep was written by an earlier version: remove this folder, .* and repeat"):
        Sweep.load(sweep.folder)
