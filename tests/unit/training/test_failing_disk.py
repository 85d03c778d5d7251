"""Every call of the system that a save makes fails once, with a full and with a broken disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixelflow.errors import WorkFailed
from pixelflow.training.checkpoint import CheckpointStore
from tests.failing_disk import ERRORS, FailingDisk
from tests.unit.training.test_checkpoint import STATE, assert_whole, tensors


@pytest.mark.parametrize(
    ("kind", "step", "stays"),
    [
        pytest.param(kind, step, stays, marks=[pytest.mark.slow] if kind == "broken" or stays or step == 5 else [])
        for kind in ERRORS
        for step in (10, 5)  # another step, and the same step again
        for stays in (False, True)
    ],
)
def test_a_save_fails_at_every_call(tmp_path: Path, kind: str, step: int, stays: bool) -> None:
    failed: list[str] = []
    for at in range(1, 200):
        store = CheckpointStore(tmp_path / str(at), keep=1)
        for earlier in (3, 5):
            store.save(earlier, tensors(earlier), STATE)
        disk = FailingDisk(at, ERRORS[kind], stays=stays)
        written = step
        with disk.active():
            try:
                store.save(step, tensors(step), STATE)
            except WorkFailed as error:
                written = 5
                assert f"the checkpoint of step {step} could not be written to {store.folder}" in str(error)
                assert os.strerror(ERRORS[kind]) in str(error) and "\n" not in str(error)
                assert "Free space there or restore access" in str(error)
        latest, problems = CheckpointStore(store.folder, keep=1).latest()
        assert latest is not None and problems == [] and latest.step in (written, step), disk.failed
        assert_whole(latest.path, latest.step)
        for folder in store.folder.glob("step_*"):  # nothing half made has the name of a checkpoint
            assert_whole(folder, int(folder.name.removeprefix("step_")))
        store.save(15, tensors(15), STATE)
        assert_whole(store.path(15), 15)
        assert store.steps()[-1] == 15 and not list(store.folder.glob(".*")), disk.failed
        failed += disk.failed[:1]
        if not disk.failed:
            break
    assert disk.failed == [] and len(failed) == at - 1 > 15
    assert {"mkdir", "open", "fsync", "rename", "chmod", "write_text", "save_file"} <= {*failed}
