"""Planning and submitting, with scripts in place of SLURM's commands; the real ones are in tests/slurm."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from submitit.helpers import DelayedSubmission

from pixelflow.errors import UserError, WorkFailed
from pixelflow.runs.attempts import record
from pixelflow.runs.status import write_status
from pixelflow.sweeps import executors, slurm
from pixelflow.sweeps.batch import frozen_jobs
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.final_job import FinalJob
from pixelflow.sweeps.manifest import Sweep, SweepJob, find_sweep, sweep_digest
from pixelflow.sweeps.plan import differing_values, plan
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.states import sweep_states
from pixelflow.sweeps.supervisor import FrozenJob
from tests.unit.sweeps.fake_slurm import FakeSlurm, entries, give


def test_what_is_submitted_is_claimed_and_frozen(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    give(sweep, entries(tmp_path, 3), Site(array_parallelism=2))
    assert "#SBATCH --array=0-2%2" in fake.scripts[0]
    claims = [read_claim(tmp_path / f"run-{n}") for n in range(3)]
    assert [claim.job for claim in claims if claim] == ["101_0", "101_1", "101_2"]
    assert [claim.tags for claim in claims if claim] == [{"seed": "0"}, {"seed": "1"}, {"seed": "2"}]
    again = Sweep.load(sweep.folder)
    assert again == sweep and again.submissions[0].slurm_ids == ["101"]
    assert [config["seed"] for _, config in frozen_jobs(again, ["run-1", "run-2"])] == [1, 2]
    assert [state.state for state in sweep_states(again)] == ["queued"] * 3


def test_the_jobs_belong_to_the_user_of_the_process(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """squeue is asked for the jobs of the user whom the claim names; LOGNAME may be anyone."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "stranger")
    give(sweep, entries(tmp_path, 1))
    claim = read_claim(tmp_path / "run-0")
    assert claim is not None and claim.user == Sweep.load(sweep.folder).submissions[0].user
    assert claim.user == pwd.getpwuid((tmp_path / "run-0").stat().st_uid).pw_name


def test_a_single_run_is_no_array(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    give(sweep, entries(tmp_path, 1))
    claim = read_claim(tmp_path / "run-0")
    assert "--array" not in fake.scripts[0] and claim and claim.job == "101"


def test_arrays_are_split_at_the_sites_limit(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    give(sweep, entries(tmp_path, 5), Site(max_array_size=2))
    assert [script.count("--array=0-1") for script in fake.scripts] == [1, 1, 0]
    assert [state.slurm for state in sweep_states(sweep)] == ["101_0", "101_1", "102_0", "102_1", "103"]
    assert Sweep.load(sweep.folder).submissions[0].slurm_ids == ["101", "102", "103"]


def test_evaluation_follows_training_run_by_run_and_the_table_follows_all(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path
) -> None:
    site = Site(gpus_per_node=8, nodes=2, evaluation={"gpus_per_node": 1, "timeout_min": 30})
    give(sweep, entries(tmp_path, 2, "pipeline"), site)
    assert fake.dependencies == [None, "aftercorr:101", "afterany:101:102"]
    assert "--gpus-per-node=8" in fake.scripts[0] and "--nodes=2" in fake.scripts[0]
    assert "--gpus-per-node=1" in fake.scripts[1] and "--nodes=1" in fake.scripts[1]
    assert "gpus" not in fake.scripts[2]
    (folder,) = (sweep.folder / "submissions").iterdir()
    jobs = [json.loads((folder / f"batch_{n}.json").read_text())["job"] for n in (0, 1)]
    assert jobs == ["train", "pipeline"]
    assert pickled(folder, "102_1") == FrozenJob(str(folder / "batch_1.json"), 1)
    assert pickled(folder, "103") == FinalJob(str(sweep.folder))
    claim = read_claim(tmp_path / "run-1")
    assert claim and (claim.job, claim.then) == ("101_1", "102_1")


def test_nothing_that_is_finished_or_under_way_is_submitted_again(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path
) -> None:
    jobs = entries(tmp_path, 6)
    give(sweep, jobs)
    words = "finished COMPLETED running RUNNING running FAILED failed FAILED interrupted COMPLETED queued CANCELLED"
    pairs = words.split()
    for n, (state, word) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        write_status(tmp_path / f"run-{n}", state, "why", step=4, job="train")
        fake.states[f"101_{n}"] = word
    planned = give(sweep, jobs)
    assert [entry.action for entry in planned] == ["skip", "skip", "resume", "retry", "resume", "resume"]
    assert planned[2].why == "lost at step 4" and planned[3].why == "failed at step 4: why"
    assert "--array=0-3" in fake.scripts[1]


def test_a_run_that_failed_too_often_is_left_alone(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    jobs = entries(tmp_path, 1)
    give(sweep, jobs)
    fake.states["101"] = "FAILED"
    write_status(tmp_path / "run-0", "failed", "too hot")
    for _ in range(3):
        record(tmp_path / "run-0", "end", step=1, exit=1, outcome="failed")
    (planned,) = give(sweep, jobs)
    assert not planned.due and planned.why == "failed 3 times (too hot); job=retry tries again"
    assert plan(jobs, Site(), again=True)[0].due


def test_a_refusal_leaves_nothing(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    fake.refuse(0)
    with pytest.raises(UserError, match=r"^sbatch: invalid partition: nowhere: nothing was submitted$"):
        give(sweep, entries(tmp_path, 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_later_refusal_cancels_what_was_submitted(number: int, fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    """Of an evaluation, of the second training, of its evaluation, and of the table."""
    fake.refuse(number)
    site = Site(max_array_size=2, evaluation={})
    ids = [str(101 + index) for index in range(number)]
    with pytest.raises(UserError, match=rf"nowhere: what was submitted \(SLURM jobs {', '.join(ids)}\) was cancelled$"):
        give(sweep, entries(tmp_path, 4, "pipeline"), site)
    assert fake.cancelled == ids and list(tmp_path.iterdir()) == [] and sweep.submissions == []


def test_jobs_that_cannot_be_cancelled_keep_their_files(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training may be at work: without its claim and its lock it could be started a second time beside that."""
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    fake.refuse(1)
    fake.put("scancel", "echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match=r"nowhere: some jobs may have been submitted and could not be cancelled \("):
        give(sweep, entries(tmp_path, 2, "pipeline"), Site(evaluation={}))
    claim = read_claim(tmp_path / "run-0")
    (submission,) = Sweep.load(sweep.folder).submissions
    assert claim is not None and claim.token == submission.token and submission.slurm_ids == ["101"]
    assert (sweep.submission_folder(submission.token) / "batch_0.json").exists()


def test_a_training_that_failed_is_not_cancelled_because_its_evaluation_is(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path
) -> None:
    """SLURM cancels the evaluation, whose condition can no longer be met."""
    give(sweep, entries(tmp_path, 1, "pipeline"), Site(evaluation={}))
    claim = read_claim(tmp_path / "run-0")
    assert claim is not None and claim.then
    fake.states |= {claim.job: "FAILED", claim.then: "CANCELLED"}
    write_status(tmp_path / "run-0", "failed", "the loss is not finite")
    (state,) = sweep_states(sweep)
    assert (state.state, state.message) == ("failed", "the loss is not finite")


def test_a_refusal_leaves_an_earlier_submission_as_it_was(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    give(sweep, entries(tmp_path, 2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    fake.refuse(2)
    with pytest.raises(UserError, match=r"what was submitted \(SLURM jobs 102\) was cancelled$"):
        give(sweep, entries(tmp_path, 4), Site(max_array_size=1))
    assert fake.cancelled == ["102"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_sbatch_that_never_answers_leaves_nothing(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM may have carried the request out: the queue tells by the place of the script."""
    monkeypatch.setattr(executors, "PATIENCE", 0.5)
    fake.refuse(0, 'echo "77|$1" > queue; sleep 1000')
    with pytest.raises(WorkFailed, match=r"^sbatch: no answer within .* \(SLURM jobs 77\) was cancelled$"):
        give(sweep, entries(tmp_path, 1))
    assert fake.cancelled == ["77"] and list(tmp_path.iterdir()) == []


def test_a_job_that_is_submitted_inside_an_array_task_inherits_nothing_of_it(
    fake: FakeSlurm, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "RANK"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    give(sweep, entries(tmp_path, 1))
    (environment,) = fake.folder.glob("*.env")
    lines = environment.read_text().splitlines()
    assert [line for line in lines if line.startswith(("SLURM", "RANK"))] == ["SLURM_CONF=/etc/other.conf"]
    assert os.environ["SLURM_ARRAY_TASK_ID"] == "7"


def test_names_with_blanks_and_options_without_a_value(fake: FakeSlurm, tmp_path: Path) -> None:
    sweep = Sweep(folder=tmp_path / "a sweep", experiment="e", digest="d")
    give(
        sweep,
        entries(tmp_path, 1),
        Site(additional_parameters={"comment": "two words", "exclusive": True, "x": False, "nice": 0}),
    )
    lines = fake.scripts[0].splitlines()
    assert {"#SBATCH --comment='two words'", "#SBATCH --exclusive", "#SBATCH --nice=0"} <= set(lines)
    assert f"#SBATCH --output='{tmp_path}/a sweep/logs/%j.log'" in lines
    assert not [line for line in lines if "wckey" in line or "--x" in line]


def test_the_job_of_the_table_needs_no_gpu(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    options = {"mem-per-gpu": "40G", "mail-type": "END"}
    site = Site(partition="gpu", qos="gpu", account="me", gpus_per_node=4, mem_gb=400, additional_parameters=options)
    give(sweep, entries(tmp_path / "a", 1, "pipeline"), site)
    lines = fake.scripts[1].splitlines()
    assert not [line for line in lines if re.search("gpu|mem", line.split("=")[0] + line.split("=")[-1])]
    assert {"#SBATCH --account=me", "#SBATCH --mail-type=END", "#SBATCH --time=30"} <= set(lines)
    give(
        Sweep(tmp_path / "b", "e", "d"),
        entries(tmp_path / "c", 1, "pipeline"),
        replace(site, table={"partition": "cpu"}),
    )
    assert "#SBATCH --partition=cpu" in fake.scripts[3].splitlines()


def pickled(folder: Path, job: str) -> object:
    return DelayedSubmission.load(folder / "submitit" / f"{job}_submitted.pkl").function


@pytest.mark.parametrize("call", range(1, 12))
def test_a_full_disk_leaves_nothing(
    call: int, fake: FakeSlurm, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file it is that cannot be written before the first job is submitted."""
    numbers, write = itertools.count(1), Path.write_bytes

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if next(numbers) == call and not fake.scripts:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WorkFailed, match=r"No space left on device.*nothing was submitted"):
        give(sweep, entries(tmp_path, 2))
    assert fake.scripts == [] and list(tmp_path.iterdir()) == []


def test_settings_that_differ_in_their_evaluation_are_one_job(fake: FakeSlurm, sweep: Sweep, tmp_path: Path) -> None:
    """The job makes both evaluations, and it is due until both exist."""
    folder = tmp_path / "run-0"
    jobs: list[tuple[SweepJob, dict[str, Any]]] = [
        (SweepJob("run-0", str(folder), "pipeline", [], "x", 9, True, [name]), {"n": name, "job": {"name": "pipeline"}})
        for name in ("a.json", "b.json")
    ]
    (planned,) = give(sweep, jobs)
    assert planned.job.evaluations == ["a.json", "b.json"] and len(planned.configs) == 2
    assert "--array" not in fake.scripts[0]
    assert [config["n"] for _, config in frozen_jobs(Sweep.load(sweep.folder), ["run-0"])] == ["a.json", "b.json"]
    fake.states["101"] = "COMPLETED"
    write_status(folder, "finished", job="pipeline", evaluations=("a.json",))
    assert plan(jobs[:1], Site())[0].why == "finished"
    (again,) = plan(jobs, Site())
    assert again.due and again.why == "incomplete"
    write_status(folder, "finished", job="pipeline", evaluations=("a.json", "b.json"))
    assert not plan(jobs, Site())[0].due


def test_the_values_that_tell_runs_apart() -> None:
    configs = {"a": {"x": {"y": 1, "z": 2}, "run_folder": "a"}, "b": {"x": {"y": 1, "z": 3}, "run_folder": "b"}}
    assert differing_values(configs) == {"a": {"x.z": "2"}, "b": {"x.z": "3"}}


def test_a_sweep_is_its_settings_in_any_order() -> None:
    assert sweep_digest(["a", "b"]) == sweep_digest(["b", "a", "a"]) != sweep_digest(["a"])


def test_a_sweep_is_found_by_its_experiment(sweep: Sweep, tmp_path: Path) -> None:
    for wrong, message in ((None, "sweep=PATH is missing"), (str(tmp_path / "x"), "does not exist"),
                           (str(tmp_path), "is not a sweep and contains none")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            find_sweep(wrong)
    sweep.save()
    assert find_sweep(str(tmp_path)).folder == sweep.folder == find_sweep(str(sweep.folder)).folder
    (sweep.folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        find_sweep(str(sweep.folder))


def test_submission_knows_nothing_of_torch() -> None:
    """Jobs are declared without it, so that job=status, retry and cancel answer at once."""
    import subprocess
    import sys

    code = "import sys, pixelflow.cli, pixelflow.sweeps.live_table; pixelflow.cli.prepare_hydra()"
    check = f"{code}; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
