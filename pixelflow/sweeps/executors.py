"""submitit's executors: with a site's settings for SLURM, and for the processes of this machine."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import psutil
from submitit import AutoExecutor, Job
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env, environment_variables

from pixelflow.errors import UserError
from pixelflow.files import write_text
from pixelflow.signals import held_back
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.slurm import BUSY, NoAnswer, last_line

FOLDER = "submitit"
"""The folder of submitit's files in the folder of a submission."""
PATIENCE = 120.0
"""Seconds after which an sbatch that does not answer is ended."""
NO_LIMIT_MIN = 60 * 24 * 365


def slurm_executor(
    folder: Path, site: Site, program: Program, *, name: str, log: Path, dependency: str | None = None
) -> AutoExecutor:
    """Returns an executor whose jobs are single processes outside the tasks, from which srun starts the tasks.

    Args:
        folder: The folder of the submission.
        site: The queue settings.
        program: What the jobs import, and where they work.
        name: The name of the jobs.
        log: The file of their output, with the placeholders of sbatch.
        dependency: A condition as `sbatch --dependency` takes it.
    """
    others: dict[str, Any] = {
        "output": str(log),
        # Without "B:" the signal goes to the processes of the step, which handle it.
        "signal": f"USR2@{site.signal_delay_s}",
        "requeue" if site.requeue else "no-requeue": True,
        **{key: value for key, value in site.additional_parameters.items() if value is not None and value is not False},
    }
    if dependency:  # without the second option, a job whose condition can no longer be met would wait for ever
        others |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    # With exec, a signal to the batch step reaches the job's process instead of a shell, whose end would end the job.
    executor = AutoExecutor(folder / FOLDER, cluster="slurm", slurm_python=f"exec {_python(program)}")
    executor.update_parameters(
        name=str(others.pop("job-name", name)), timeout_min=site.timeout_min, nodes=site.nodes,
        tasks_per_node=site.tasks, gpus_per_node=site.gpus_per_node or None, cpus_per_task=site.cpus_per_task,
        mem_gb=site.mem_gb, stderr_to_stdout=True, slurm_partition=site.partition, slurm_account=site.account,
        slurm_qos=site.qos, slurm_constraint=site.constraint, slurm_exclude=site.exclude, slurm_gres=site.gres,
        slurm_array_parallelism=site.array_parallelism or site.max_array_size, slurm_use_srun=False,
        slurm_setup=program.set_up(site.setup),
        slurm_additional_parameters=others,
    )  # fmt: skip
    # submitit's own default is a name that sites which enforce wckeys refuse; update_parameters ignores None.
    executor.parameters["wckey"] = None
    return executor


def local_executor(folder: Path, site: Site, program: Program) -> AutoExecutor:
    """Returns an executor of processes of this machine, without a time limit.

    Args:
        folder: The folder of the submission, where the lines before a job's process are written to `set_up.sh`.
        site: The queue settings.
        program: What the jobs import, and where they work.
    """
    lines = [*program.set_up(site.setup), f'exec {_python(program)} "$@"']
    script = write_text(folder / "set_up.sh", "\n".join(lines) + "\n")
    executor = AutoExecutor(folder / FOLDER, cluster="local", local_python=shlex.join(["bash", str(script)]))
    executor.update_parameters(timeout_min=NO_LIMIT_MIN)
    return executor


def submit(executor: AutoExecutor, calls: Sequence[Callable[[], Any]]) -> list[Job[Any]]:
    """Submits the calls, as an array if there are several.

    Raises:
        UserError: SLURM refuses the jobs.
        NoAnswer: SLURM does not answer. The jobs may have been submitted.
    """
    with ExitStack() as stack:
        # submitit moves the pickle of a job to its place after sbatch has answered; an interruption in between would
        # leave a job without one.
        stack.enter_context(held_back(signal.SIGINT, signal.SIGHUP))
        stack.enter_context(redirect_stderr(io.StringIO()))  # submitit prints what sbatch reports
        if executor.cluster == "slurm":
            stack.enter_context(_outside_of_jobs())
            stack.enter_context(_time_limit())
        try:
            return executor.submit_array(calls)
        except (FailedJobError, FailedSubmissionError) as error:
            text = last_line(str(error))
            if not text:
                raise NoAnswer(
                    f"sbatch: no answer within {PATIENCE:.0f} s; repeat the command when SLURM answers"
                ) from None
            if re.search(BUSY, text, re.IGNORECASE):
                raise NoAnswer(f"sbatch: {text}; repeat the command when SLURM answers") from None
            raise UserError(f"sbatch: {text}") from None


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hides the variables of the SLURM job in which this process runs, since a new job would inherit them."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(), environment_variables(**kept):
        yield


@contextmanager
def _time_limit() -> Iterator[None]:
    """Kills the processes that the block starts if it has not ended after PATIENCE seconds."""
    this = psutil.Process()
    known = set(this.children(recursive=True))

    def end() -> None:
        for process in this.children(recursive=True):  # parents first: a shell would report its child as killed
            if process not in known:
                process.kill()

    timer = threading.Timer(PATIENCE, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _python(program: Program) -> str:
    """The interpreter; with `-P` it does not put the working directory before the snapshot."""
    return shlex.join([program.python, "-P"])
