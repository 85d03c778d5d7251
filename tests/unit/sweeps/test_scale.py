"""The work that a sweep of many runs costs, in counts; tests/slurm/test_scale.py measures seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelflow.jobs import status
from pixelflow.runs.status import write_status
from pixelflow.sweeps import slurm
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.site import Site
from tests.unit.sweeps.fake_slurm import FakeSlurm, entries, give

QUEUE = slurm.queue


def test_a_refresh_asks_squeue_once(
    fake: FakeSlurm,
    sweep: Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the number of runs and arrays."""
    give(sweep, entries(tmp_path, 40), Site(max_array_size=15))
    monkeypatch.setattr(slurm, "queue", QUEUE)
    lines = [f"{job.job}|{'FAILED' if n < 10 else 'RUNNING'}|None|n1|5:00"
             for n in range(40) if (job := read_claim(tmp_path / f"run-{n}"))]  # fmt: skip
    (fake.folder / "queue").write_text("\n".join(lines) + "\n")
    fake.put("squeue", f"echo $@ >> {fake.folder}/asked; cat {fake.folder}/queue")
    for n in range(40):
        write_status(tmp_path / f"run-{n}", "running", step=1)
    with pytest.raises(SystemExit):  # with 1: some runs are not at work
        status.run({"sweep": str(sweep.folder), "watch": False}, status.JOB.options(), [])
    assert "30 running, 10 lost of 40" in capsys.readouterr().out
    assert len((fake.folder / "asked").read_text().splitlines()) == 1


def test_files_and_calls_grow_with_the_runs_only(
    fake: FakeSlurm,
    tmp_path: Path,
) -> None:
    """A run has its config, claim and status, its frozen config and what submitit pickled; a sweep has nine files."""
    counts = []
    for number in (10, 30):
        folder = tmp_path / str(number)
        give(Sweep(folder / "sweep", "e", "d"), entries(folder, number))
        counts.append(len([path for path in folder.rglob("*") if path.is_file()]))
    assert (counts[1] - counts[0]) / 20 == 5 and counts[0] - 50 <= 9
    assert len(fake.scripts) == 2


def test_arrays_follow_each_other_so_that_no_more_jobs_run_at_once(
    fake: FakeSlurm,
    sweep: Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SLURM limits the tasks of one array. A cluster with MaxArraySize=11 takes arrays of 10."""
    monkeypatch.setattr(slurm, "array_limit", lambda: 10)
    give(sweep, entries(tmp_path, 25), Site(array_parallelism=4))
    assert [script.count("%4") for script in fake.scripts] == [1, 1, 1]
    assert fake.dependencies == [None, "afterany:101", "afterany:102"]
    give(Sweep(tmp_path / "other", "e", "d"), entries(tmp_path / "free", 25))
    assert fake.dependencies[3:] == [None] * 3
