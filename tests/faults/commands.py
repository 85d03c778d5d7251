"""Commands that are killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pixelflow.metrics import accumulate
from tests.forked import Process

KILLS = int(os.environ.get("PIXELFLOW_KILLS", "20"))
"""How often the training is killed; CONTRIBUTING.md."""


@dataclass(frozen=True)
class Command:
    """A command in a folder."""

    arguments: tuple[str, ...]
    cwd: Path

    def start(self) -> Process:
        self.cwd.mkdir(parents=True, exist_ok=True)
        return Process("run.py", *self.arguments, cwd=self.cwd, before=save_often)

    def finish(self) -> None:
        """Runs the command to its end."""
        process = self.start()
        assert process.wait() == 0, process.err


def save_often() -> None:
    """Lets an evaluation write a part after every batch."""
    accumulate.SAVE_SECONDS = 0.0


def killed(
    process: Process, begun: Callable[[], bool], inside: Callable[[], bool], moments: random.Random, longest: float
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
    process.wait_until(lambda: not process.is_alive() or begun())
    time.sleep(moments.uniform(0, longest))
    while True:
        while not inside():
            if not process.is_alive():
                return False
        if not _stand_still(process):
            process.wait()
            return False
        if inside():
            process.kill()
            assert process.wait() == -signal.SIGKILL
            return True
        process.send_signal(signal.SIGCONT)


def _stand_still(process: Process) -> bool:
    """Stops all threads of a process; False where it has ended."""
    try:
        process.send_signal(signal.SIGSTOP)
        while process.is_alive():
            states = [path.read_text().rpartition(")")[2].split()[0] for path in _threads(process)]
            if set(states) == {"T"}:
                return True
            time.sleep(0.001)
    except (ProcessLookupError, FileNotFoundError):
        pass
    return False


def _threads(process: Process) -> list[Path]:
    return [Path(task, "stat") for task in Path(f"/proc/{process.pid}/task").iterdir()]
