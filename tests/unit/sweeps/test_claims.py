from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixelflow.errors import UserError
from pixelflow.sweeps.claims import Claim, local_job, read_claim, remove_claim


def test_a_claim_is_read_as_it_was_written(tmp_path: Path) -> None:
    claim = Claim("sweep", "token", "user", 1.0, "12_3", tags={"seed": "1"})
    claim.save(tmp_path)
    assert read_claim(tmp_path) == claim
    remove_claim(tmp_path)
    assert read_claim(tmp_path) is None and read_claim(tmp_path / "nowhere") is None


def test_jobs_of_slurm_and_of_this_machine_are_told_apart() -> None:
    remote, local = Claim("s", "t", "u", 1.0, "12_3", "13_3"), Claim("s", "t", "u", 1.0, local_job(os.getpid()))
    assert (remote.slurm_jobs, remote.local_process) == (["12_3", "13_3"], None)
    assert (local.slurm_jobs, local.local_process) == ([], os.getpid())


def test_a_damaged_claim_is_named(tmp_path: Path) -> None:
    (tmp_path / "launch.json").write_text('{"sweep": "s"}')
    with pytest.raises(UserError, match=r"launch\.json is damaged"):
        read_claim(tmp_path)
