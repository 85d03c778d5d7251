"""The states of runs whose files a crash has damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.sweeps.manifest import SweepJob
from pixelflow.sweeps.states import RunState, newest_metric
from pixelflow.sweeps.waiting import objective


@pytest.mark.parametrize("text", ["", '{"metrics": {"fid', "[]", '{"metrics": []}', '{"metrics": {"fid": "low"}}'])
def test_a_damaged_evaluation_is_left_out_of_the_status(text: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "a.json").write_text('{"metrics": {"fid": 3.25}}')
    os.utime(tmp_path / "evaluation" / "a.json", (1.0, 1.0))
    (tmp_path / "evaluation" / "b.json").write_text(text)
    assert newest_metric(tmp_path) == "fid 3.25"


@pytest.mark.parametrize("makes_run", [True, False])
def test_a_search_names_the_result_that_is_damaged(makes_run: bool, tmp_path: Path) -> None:
    name = "evaluation.json" if makes_run else "result.json"
    (tmp_path / name).write_text('{"metr')
    state = RunState(SweepJob("run", str(tmp_path), "pipeline", [], "x", 9, makes_run), "finished")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        objective(state, "evaluation.json")
