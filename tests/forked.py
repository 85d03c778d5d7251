"""Processes that start in a moment, because they are forked from one that has imported everything.

They are processes like any other: they can be stopped and killed, and nothing of the test is in them. A new interpreter
takes six seconds of processor time before it begins to work; the tests that are about its start still use one.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300.0
"""Seconds that a busy machine may take."""
IMPORTED = [
    *("pytest", "matplotlib.pyplot", "torch._dynamo", "mlflow.store.tracking.sqlalchemy_store"),
    *("tests.distributed.worker", "tests.distributed.save_faults"),
    *("pixelflow.cli", "pixelflow.config.resolve", "pixelflow.config.validate", "pixelflow.tracking"),
    *("pixelflow.workflows.run_pipeline", "pixelflow.workflows.evaluate_samples", "pixelflow.data.preparation"),
    *("pixelflow.benchmarks.training_step", "pixelflow.training.distributed", "pixelflow.training.watchdog"),
]


class Process:
    """A script of the repository or a module, which runs as `python run.py` or `python -m MODULE` would.

    Args:
        program: "run.py", "evaluate.py", or the name of a module.
        arguments: Its arguments.
        cwd: Its working directory.
        environment: Its variables; those of this process by default.
        group: Whether it gets a session and a process group of its own.
        before: Called in the process before the program begins.
    """

    def __init__(
        self,
        program: str,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        group: bool = False,
        before: Callable[[], object] | None = None,
    ) -> None:
        self.command = [program, *arguments]
        self.files = [tempfile.NamedTemporaryFile("w+") for _ in range(2)]  # noqa: SIM115  (until nobody reads them)
        variables = dict(os.environ if environment is None else environment) | {"OMP_NUM_THREADS": "1"}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        with contextlib.chdir(ROOT):  # where the server finds the modules of tests
            forkserver.ensure_running()
        names = [file.name for file in self.files]
        self._process = context.Process(
            target=_work, args=(self.command, str(cwd or Path.cwd()), variables, names, group, before)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        atexit.register(self._process.kill)  # otherwise multiprocessing waits for what a failed test left

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = PATIENCE) -> int:
        """Waits for the end and returns the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.command, timeout)
        return self.returncode

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Waits for the end and returns the standard output and the standard error."""
        self.wait(timeout)
        return self.out, self.err

    @property
    def out(self) -> str:
        """What is in the standard output so far."""
        return Path(self.files[0].name).read_text()

    @property
    def err(self) -> str:
        """What is in the standard error so far."""
        return Path(self.files[1].name).read_text()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Waits for a condition, which must come true while the process runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.returncode is None, f"it ended with {self.returncode}: {self.err}"
            assert time.monotonic() < end, f"nothing happened: {self.err}"
            time.sleep(0.005)

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self._process.kill()


def call(
    program: str,
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; the arguments are those of `Process`."""
    process = Process(program, *arguments, cwd=cwd, environment=environment, before=before)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.command, process.returncode, out, err)


def ranks(size: int) -> list[dict[str, str]]:
    """Returns for each process of a group the variables that torchrun would set."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    common["LOCAL_WORLD_SIZE"] = str(size)
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def _work(
    command: list[str], cwd: str, environment: dict[str, str], outputs: list[str], group: bool,
    before: Callable[[], object] | None,
) -> None:  # fmt: skip
    """Makes the forked process what a new one would be, and runs the program."""
    import torch  # is there, with a thread for every core

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if group:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, name in enumerate(outputs, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if before is not None:
        before()
    program, *arguments = command
    if program.endswith(".py"):
        sys.argv = [str(ROOT / program), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
