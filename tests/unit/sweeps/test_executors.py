"""What submitit is asked for, and what its errors become; scripts stand for SLURM's commands."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelflow.errors import UserError, WorkFailed
from pixelflow.runs.snapshot import Snapshot
from pixelflow.sweeps.executors import local_executor, slurm_executor, submit
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site

PROGRAM = Program(entry="e", snapshot=Snapshot("/the code", "", ""), user_paths=["/mine"], python="/py", cwd="/a b")


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(script: str) -> None:
        for name, text in (("sbatch", script), ("srun", "true")):
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)

    return put


def script(folder: Path, site: Site) -> list[str]:
    """The lines of the batch script of one job."""
    (job,) = submit(slurm_executor(folder, site, PROGRAM, name="n", log=folder / "%j.log"), [print])
    return job.paths.submission_file.read_text().splitlines()


def test_what_a_site_asks_for(tmp_path: Path, sbatch: Callable[[str], None]) -> None:
    sbatch("echo Submitted batch job 5")
    lines = script(tmp_path, Site(nodes=2, gpus_per_node=4, timeout_min=90, mem_gb=100, setup=["module load x"]))
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4", "#SBATCH --time=90",
            "#SBATCH --mem=100GB", "#SBATCH --requeue", "#SBATCH --signal=USR2@120", "#SBATCH --open-mode=append",
            f"#SBATCH --output={tmp_path}/%j.log"} <= set(lines)  # fmt: skip
    assert not [line for line in lines if "partition" in line or "None" in line or "--error" in line]
    set_up = lines[lines.index("# setup") + 1 :]
    assert set_up[:3] == [
        "cd '/a b'",
        "module load x",
        "export PYTHONPATH='/the code:/mine'${PYTHONPATH:+:$PYTHONPATH}",
    ]
    assert f"exec /py -P -u -m submitit.core._submit {tmp_path}/submitit" in set_up
    assert not [line for line in lines if line.startswith("srun")]


def test_a_cpu_job_is_one_task_and_other_options_are_sbatchs_own(tmp_path: Path, sbatch: Callable[[str], None]) -> None:
    sbatch("echo Submitted batch job 5")
    lines = script(tmp_path, Site(additional_parameters={"mail-type": "END", "job-name": "mine"}, requeue=False))
    assert "#SBATCH --ntasks-per-node=1" in lines and not [line for line in lines if "gpus" in line]
    assert "#SBATCH --mail-type=END" in lines and "#SBATCH --no-requeue" in lines and "#SBATCH --job-name=mine" in lines


def test_a_submission_is_never_repeated(tmp_path: Path, sbatch: Callable[[str], None]) -> None:
    """It is unknown whether the first one was carried out."""
    sbatch(f'echo x >> {tmp_path}/calls; echo "sbatch: error: Socket timed out" >&2; exit 1')
    with pytest.raises(WorkFailed, match=r"^sbatch: Socket timed out; repeat the command when SLURM answers$"):
        script(tmp_path, Site())
    assert (tmp_path / "calls").read_text() == "x\n"


def test_a_refusal_is_a_mistake_of_the_user(
    tmp_path: Path, sbatch: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch('echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1')
    with pytest.raises(UserError, match=r"^sbatch: invalid partition specified: nowhere$"):
        script(tmp_path, Site())
    assert capsys.readouterr().err == ""  # the message is printed once, by the command


def test_the_job_number_of_a_federated_cluster(tmp_path: Path, sbatch: Callable[[str], None]) -> None:
    sbatch('echo "Submitted batch job 42 on cluster east"')
    (job,) = submit(slurm_executor(tmp_path, Site(), PROGRAM, name="n", log=tmp_path / "log"), [print])
    assert job.job_id == "42"


def test_an_interruption_waits_until_the_pickle_is_in_its_place(tmp_path: Path, sbatch: Callable[[str], None]) -> None:
    """Ctrl-C at a terminal reaches sbatch as well."""
    sbatch("kill -INT $PPID; kill -INT $$; echo Submitted batch job 5")
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        script(tmp_path, Site())
    assert (tmp_path / "submitit" / "5_submitted.pkl").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_job_of_this_machine_has_no_time_limit(tmp_path: Path) -> None:
    assert local_executor(tmp_path, Site(), PROGRAM).parameters["timeout_min"] > 10**5
