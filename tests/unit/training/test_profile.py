from __future__ import annotations

import gzip
import json
from pathlib import Path

from tests.unit.training.test_trainer import make_trainer


def test_a_trace_of_some_steps(tmp_path: Path) -> None:
    make_trainer(tmp_path / "checkpoints", max_steps=10, profile_steps=2).fit()
    with gzip.open(tmp_path / "profile" / "process_0.json.gz", "rt") as file:
        names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
    assert {"ProfilerStep#5", "ProfilerStep#6"} <= names and "ProfilerStep#7" not in names
    assert "aten::addmm" in names
