"""Commands as processes that start in a moment, because they are forked from one that has imported everything.

They are processes like any other: they can be stopped and killed, and nothing of the test is in them.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pixelflow.benchmarks.training_step
import pixelflow.config.resolve
import pixelflow.data.preparation
import pixelflow.workflows.evaluate_samples
import pixelflow.workflows.run_pipeline  # noqa: F401
from pixelflow import cli
from pixelflow.metrics import accumulate

KILLS = int(os.environ.get("PIXELFLOW_KILLS", "20"))
"""How often the training is killed; CONTRIBUTING.md."""
PATIENCE = 300.0
"""Seconds that a busy machine may take."""

_context = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Command:
    """A command in a folder; its messages are in `cwd/messages.txt`."""

    arguments: tuple[str, ...]
    cwd: Path

    def start(self) -> BaseProcess:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        _context.set_forkserver_preload([__name__])
        self.cwd.mkdir(parents=True, exist_ok=True)
        process = _context.Process(target=_run, args=(self.arguments, self.cwd))  # type: ignore[attr-defined]
        process.start()
        return process

    def finish(self) -> None:
        """Runs the command to its end."""
        process = self.start()
        process.join(PATIENCE)
        assert process.exitcode == 0, self.messages()

    def messages(self) -> str:
        return (self.cwd / "messages.txt").read_text()


def _run(arguments: tuple[str, ...], cwd: Path) -> None:
    os.chdir(cwd)
    messages = os.open("messages.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(messages, 1)
    os.dup2(messages, 2)
    accumulate.SAVE_SECONDS = 0.0  # a part of an evaluation after every batch
    sys.argv = ["run.py", *arguments]
    cli.main("run")


def killed(
    process: BaseProcess, begun: Callable[[], bool], inside: Callable[[], bool], moments: random.Random, longest: float
) -> bool:
    """Kills a process at a random moment after `begun` at which `inside` is true. Returns False where it ended before.

    The process is stopped, looked at, and killed or continued, so the kill falls inside on a slow machine as well.

    Args:
        process: The process.
        begun: Whether the moments begin.
        inside: Whether to kill it where it stands.
        moments: Draws the moment, uniformly, from which on `inside` is looked for.
        longest: Seconds of the longest wait.
    """
    end = time.monotonic() + PATIENCE
    while not begun():
        if not process.is_alive():
            return False
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
    process.join(moments.uniform(0, longest))
    while True:
        while not inside():
            if not process.is_alive():
                return False
        if not _stand_still(process):
            process.join()
            return False
        if inside():
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            return True
        os.kill(process.pid or 0, signal.SIGCONT)


def _stand_still(process: BaseProcess) -> bool:
    """Stops all threads of a process; False where it has ended."""
    try:
        os.kill(process.pid or 0, signal.SIGSTOP)
        while process.is_alive():
            states = [path.read_text().rpartition(")")[2].split()[0] for path in _threads(process)]
            if set(states) == {"T"}:
                return True
            time.sleep(0.001)
    except (ProcessLookupError, FileNotFoundError):
        pass
    return False


def _threads(process: BaseProcess) -> list[Path]:
    return [Path(task, "stat") for task in Path(f"/proc/{process.pid}/task").iterdir()]
