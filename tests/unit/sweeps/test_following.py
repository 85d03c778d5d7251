"""Two sweeps that need one run: the second follows the jobs of the first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pixelflow.errors import WorkFailed
from pixelflow.runs.status import write_status
from pixelflow.sweeps import supervisor
from pixelflow.sweeps.cancellation import cancel_runs
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import Sweep
from pixelflow.sweeps.plan import plan
from pixelflow.sweeps.show import print_submission
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import sweep_states
from pixelflow.sweeps.supervisor import FrozenJob
from tests.unit.sweeps.fake_slurm import FakeSlurm, give, pipelines


def test_evaluations_of_a_run_that_another_sweep_trains_follow_its_jobs(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(sweep, pipelines(tmp_path, "a"))
    other = Sweep(tmp_path / "other", "e", "o")
    fake.states["101"] = "RUNNING"
    write_status(tmp_path / "run-0", "running", step=4)
    (planned,) = give(other, [*pipelines(tmp_path, "a", "b")])
    assert (planned.action, planned.after) == ("follow", ("101",))
    assert fake.dependencies == [None, "afterany:101", "afterany:101", "afterany:103"]  # each sweep with its table
    claim = read_claim(tmp_path / "run-0")
    assert claim is not None and (claim.job, claim.after) == ("103", ["101"])
    (first,), (second,) = sweep_states(sweep), sweep_states(other)
    assert (first.state, first.slurm) == (second.state, second.slurm) == ("running", "101")
    # The job of the first sweep is still its job, also when SLURM starts it again.
    started: list[str] = []

    def run(job: FrozenJob, *_: object) -> int:
        started.append(job.batch)
        return 1

    monkeypatch.setattr(FrozenJob, "run", run)
    monkeypatch.setattr(supervisor, "Task", lambda forwarded: SimpleNamespace(stopped=False))
    (folder,) = (sweep.folder / "submissions").iterdir()
    for name in ("77", "101"):
        monkeypatch.setattr(supervisor, "JobEnvironment", lambda name=name: SimpleNamespace(job_id=name))
        call = FrozenJob(str(folder / "batch_0.json"), 0)
        if name == "77":
            assert "belongs to another submission" in call()
            continue
        with pytest.raises(WorkFailed):
            call()
    assert len(started) == 1
    # Once that job is over, the second sweep's is the one that counts.
    fake.states["101"] = "COMPLETED"
    write_status(tmp_path / "run-0", "finished", job="pipeline", evaluations=("a",))
    assert [state.state for state in sweep_states(sweep)] == ["finished"]
    assert [(state.state, state.slurm) for state in sweep_states(other)] == [("queued", "103")]
    cancel_runs(other, "all")
    assert fake.cancelled == ["103"]


def test_a_sweep_whose_evaluations_another_one_makes_is_left_to_it(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path
) -> None:
    give(sweep, pipelines(tmp_path, "a", "b"))
    (planned,) = give(Sweep(tmp_path / "other", "e", "o"), pipelines(tmp_path, "b"))
    assert planned.action == "skip" and len(fake.scripts) == 2


def test_jobs_of_this_machine_cannot_follow_and_say_so(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give(sweep, pipelines(tmp_path, "a"))
    planned = plan(pipelines(tmp_path, "b"), Site(), launcher="local")
    assert [entry.action for entry in planned] == ["later"] and not planned[0].due
    print_submission(Sweep(tmp_path / "other", "e", "o"), planned)
    assert "1 not submitted" in (text := capsys.readouterr().out)
    assert "run-0: queued as 101 for another command; repeat this command after it for the evaluations" in text
