from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.reporting.presentation import Chart, Presentation
from pixelflow.sweeps.final_job import sweep_table
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


def test_what_the_table_shows_is_kept(tmp_path: Path) -> None:
    chart = Chart("cascade.kickoff", "kickoff", "log", "arm", ("fid",))
    paper = ({"label": "a", "source": "b", "match": {"k": 4}, "metrics": {"fid": 3.5}, "x": "4x4"},)
    presentation = Presentation(("k",), ("seed",), ("jit", "jit x"), paper, chart, "Which k?")
    sweep = Sweep(tmp_path / "sweep", "e", "d", presentation=presentation)
    sweep.add(submission("b", 1.0), jobs(0))
    assert Sweep.load(sweep.folder).presentation == presentation


def test_a_manifest_without_a_presentation_states_columns_and_quoted_rows(sweep: Sweep) -> None:
    """As written by an earlier version, whose frozen code still reads these two keys."""
    path = sweep.folder / "manifest.json"
    head = json.loads(path.read_text())
    assert head["axes"] == ["seed"] and head["paper"] == []
    del head["presentation"]
    path.write_text(json.dumps(head | {"axes": ["k"], "paper": [{"label": "a"}]}))
    assert Sweep.load(sweep.folder).presentation == Presentation(swept=("k",), paper=({"label": "a"},))


def test_the_table_of_a_sweep_has_its_arms_in_the_order_of_its_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep", "e", "d", presentation=Presentation(question="Which arm?"))
    entries = []
    for number, arm in enumerate(("x", "velocity")):
        folder = tmp_path / f"run-{number}"
        (folder / "evaluation").mkdir(parents=True)
        (folder / "config.yaml").write_text(f"seed: 0\narm: {arm}\nk: {number}\n")
        (folder / "status.json").write_text(json.dumps({"state": "finished"}))
        evaluation = {"metrics": {"fid": 1.0 + number}, "record": {"num_samples": 50_000}}
        (folder / "evaluation" / "a.json").write_text(json.dumps(evaluation))
        entries.append(SweepJob(folder.name, str(folder), "pipeline", [], str(number), 9))
    sweep.add(submission("b", 1.0), entries)
    table = sweep_table(Sweep.load(sweep.folder))
    assert table is not None and [row.label for row in table.rows] == ["x", "velocity"]
    text = (sweep.folder / "table.md").read_text()
    assert text.startswith("Which arm?\n") and "| x | 1 | **1.00** |" in text
    assert (sweep.folder / "table.png").exists()
