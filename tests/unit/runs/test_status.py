"""status.json: the one record of a run's state, and what becomes of a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelflow.runs.status import RunStatus, add_evaluation, read_status, write_status


def test_a_new_state_keeps_everything_but_the_message(tmp_path: Path) -> None:
    write_status(tmp_path, "running", "why", step=3, max_steps=9, job="pipeline", evaluations=("evaluation/a.json",))
    write_status(tmp_path, "failed", step=4)
    status = read_status(tmp_path)
    assert (status.state, status.message, status.step, status.max_steps) == ("failed", "", 4, 9)
    assert (status.job, status.evaluations) == ("pipeline", ("evaluation/a.json",))
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 4


def test_the_latest_evaluation_is_the_last_and_listed_once(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        write_status(tmp_path, "finished", evaluations=add_evaluation(tmp_path, name))
    assert read_status(tmp_path).evaluations == ("b", "a")


@pytest.mark.parametrize("text", [None, "", '{"state": "runn', "[]", '{"state": 3}', '{"state": "running", "step": "x"}'])
def test_a_missing_or_damaged_status_is_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) == RunStatus()


def test_the_single_evaluation_of_earlier_versions_is_read(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "finished", "evaluation": "evaluation/x.json", "later": 1}')
    assert read_status(tmp_path).evaluations == ("evaluation/x.json",)
