from __future__ import annotations

from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.runs.folder import find_run_folder
from pixelflow.runs.sharing import SharedEvaluation, borrows, claim_borrowed, record_use, shared_evaluations
from pixelflow.runs.status import write_status


def config(runs: Path, **more: object) -> dict:
    return {"experiment": "a", "runs_dir": str(runs), "seed": 0, **more}


def test_runs_of_another_experiment_are_found_and_made_in_its_folder(tmp_path: Path) -> None:
    own, borrowed = config(tmp_path, experiment="b"), config(tmp_path, runs_of="b")
    assert find_run_folder(borrowed, "x") == find_run_folder(own, "x")
    assert borrows(borrowed) and not borrows(own) and not borrows(config(tmp_path, runs_of="a"))


def test_a_record_is_relative_and_written_once(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "b" / "x-1"
    for _ in range(2):
        record_use(config(tmp_path / "runs", runs_of="b"), run, "evaluation/step_1-h.json")
    (tmp_path / "runs").rename(tmp_path / "moved")
    there = tmp_path / "moved"
    assert shared_evaluations(there / "a") == [SharedEvaluation(there / "b" / "x-1", "evaluation/step_1-h.json")]
    assert shared_evaluations(there / "b") == []


def test_the_runs_own_experiment_records_only_what_was_made_for_another(tmp_path: Path) -> None:
    run = tmp_path / "a" / "x-1"
    run.mkdir(parents=True)
    write_status(run, "finished", evaluations=("mine.json", "theirs.json"), borrowed=("theirs.json",))
    for name in ("mine.json", "theirs.json"):
        record_use(config(tmp_path), run, name)
    assert [entry.evaluation for entry in shared_evaluations(tmp_path / "a")] == ["theirs.json"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"run": 1, "evaluation": "e"}'])
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is damaged; remove it"):
        shared_evaluations(tmp_path)


def test_arms_with_one_evaluation_have_a_record_each(tmp_path: Path) -> None:
    run = tmp_path / "b" / "x-1"
    for arm in ("equal images", "equal FLOPs", "equal images"):
        record_use(config(tmp_path, runs_of="b", arm=arm), run, "evaluation/step_1-h.json")
    found = shared_evaluations(tmp_path / "a")
    assert sorted(entry.arm or "" for entry in found) == ["equal FLOPs", "equal images"]
    assert {(entry.run, entry.evaluation) for entry in found} == {(run, "evaluation/step_1-h.json")}


def test_an_experiment_claims_what_another_has_made_of_its_run_meanwhile(tmp_path: Path) -> None:
    run = tmp_path / "a" / "x-1"
    run.mkdir(parents=True)
    write_status(run, "finished", evaluations=("mine.json", "theirs.json"), borrowed=("theirs.json",))
    claim_borrowed(tmp_path / "a", run, ["mine.json", "theirs.json", "missing.json"])
    assert [entry.evaluation for entry in shared_evaluations(tmp_path / "a")] == ["theirs.json"]
