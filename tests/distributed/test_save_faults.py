"""A disk that fails at any call of a joint save: all processes report it, none hangs, the last checkpoint stays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Process, ranks


@pytest.mark.slow
def test_a_save_of_two_processes_fails_at_every_call(tmp_path: Path) -> None:
    started = [
        Process("tests.distributed.save_faults", str(tmp_path), environment=os.environ | own) for own in ranks(2)
    ]
    try:
        ended = [process.communicate() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ended
    first, second = ([json.loads(line) for line in out.splitlines()] for out, _ in ended)
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        check(ours, theirs)
    for faulty, least in ((0, 12), (1, 4)):  # rank 0 makes the folder, writes the state and renames
        reached = [r for ours, theirs in zip(first, second, strict=True) for r in (ours, theirs) if r["failed"]]
        assert len([r for r in reached if r["faulty"] == faulty]) > least


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compares what the two processes report of one attempt."""
    assert ours["message"] == theirs["message"], (ours, theirs)
    assert ours["left"] == theirs["left"] == []
    step, total, problems = ours["kept"]
    assert problems == [] and total == step * 8 and step in (5, 10)
    if ours["message"] is None:
        assert step == 10, ours
    else:
        assert "the checkpoint of step 10 could not be written" in ours["message"]
        reason = "Input/output error" if ours["at"] % 2 else "No space left on device"
        assert reason in ours["message"], ours
        assert ours["faulty"] == 0 or "process 2 of 2" in ours["message"]
    if not ours["failed"] and not theirs["failed"]:
        assert ours["message"] is None
