from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pixelflow.errors import UserError
from pixelflow.sweeps.batch import Batch, FrozenConfigs
from pixelflow.sweeps.claims import Claim, Launcher, read_claim, remove_claim
from pixelflow.sweeps.program import Program
from tests.slurm.cluster import wait_for


def test_a_claim_is_read_as_it_was_written(tmp_path: Path) -> None:
    for claim in (
        Claim("sweep", "token", "user", 1.0, "12_3", tags={"seed": "1"}),
        Claim("sweep", "token", "user", 1.0, launcher=Launcher.this_process()),
    ):
        claim.save(tmp_path)
        assert read_claim(tmp_path) == claim
    remove_claim(tmp_path)
    assert read_claim(tmp_path) is None and read_claim(tmp_path / "nowhere") is None


def test_a_launcher_is_told_from_another_process_of_its_number() -> None:
    this = Launcher.this_process()
    assert this.process is not None and this.process.pid == os.getpid() and not this.elsewhere
    assert replace(this, started=this.started - 3600).process is None
    other = replace(this, host="elsewhere")
    assert other.elsewhere and other.process is None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        ended = replace(this, pid=process.pid, started=psutil.Process(process.pid).create_time())
        wait_for(lambda: ended.process is None, 20)  # also as long as nobody has asked for its exit status
    assert ended.process is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "EOF while parsing"),
        ('{"sweep": "s", "tok', "EOF while parsing"),
        ('{"sweep": "s"}', "token="),
        ("[]", "should be an object"),
        ('{"sweep": "s", "token": "t", "user": "u", "time": 1, "job": 5}', "job=5: Input should be a valid string"),
    ],
)
def test_a_damaged_claim_is_named(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "launch.json").write_text(text)
    with pytest.raises(UserError, match=rf"launch\.json is damaged: .*{reason}.*; delete it, and repeat") as raised:
        read_claim(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", '{"token": "t", "job', "[]", '{"entry": 5}'])
def test_a_damaged_file_of_a_submission_is_named(text: str, tmp_path: Path) -> None:
    for read, name in ((Batch.load, "batch_0.json"), (FrozenConfigs.load, "run-0.json")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=rf"{name} is damaged: .*; repeat the sweep's command"):
            read(tmp_path / name)
    (tmp_path / "program.json").write_text(text)
    with pytest.raises(UserError, match=r"program\.json is damaged"):
        Program.load(tmp_path)
