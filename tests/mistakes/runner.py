"""Runs a line of the corpus in this process, and compares what happens with what is written there.

Each command has its own working directory, home directory and temporary directory below one folder. After it, that
folder must be as before: a refused command leaves nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import matplotlib.font_manager  # noqa: F401  # when first imported, it runs fc-list and writes to the home folder
import psutil
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton

from pixelflow.cli import main
from pixelflow.sampling.sampler import Sampler
from pixelflow.training.trainer import Trainer
from tests.mistakes import given
from tests.mistakes.corpus import FILE, Case
from tests.mistakes.watch import watching

SECRET = "a-value-that-no-message-may-show"
SECONDS = 120.0
MEMORY = 4 << 30
"""Bytes that a command may allocate: more than any refusal needs, less than what a machine lacks when it swaps."""
SMALL = "backbone.depth=1 backbone.num_heads=1 backbone.head_dim=8"

EVIL = """
from pathlib import Path
CANARY = Path({canary!r})
CANARY.write_text("imported")
class Part:
    def __init__(self, *args, **kwargs):
        CANARY.write_text("called")
def call(*args, **kwargs):
    CANARY.write_text("called")
"""


class TookTooLong(BaseException):
    """A command did not end in time."""


class Accepted(BaseException):
    """A command that must be refused began to train or to sample. It ends there, since it would take minutes."""


def accept(*args: Any, **kwargs: Any) -> None:
    """Stands for training and sampling.

    Raises:
        Accepted: Always.
    """
    raise Accepted("the command was accepted: it began to train or to sample")


@dataclass
class Outcome:
    """The effects of a command.

    Args:
        case: The line.
        status: Exit status; None for an exception that reached the caller.
        out: Its standard output.
        err: Its standard error.
        left: Files and folders that appeared, changed or disappeared, and processes that remain.
        executed: Programs, connections and foreign code.
    """

    case: Case
    status: int | None = 0
    out: str = ""
    err: str = ""
    left: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        """The standard error without the headings of a sweep's runs and what was found before the mistake."""
        found = r"(checkpoint|init_from)=.*: step \d+$|found in the data: "
        heading = re.compile(rf"\[\d+\] |.* belongs to no run of yours in runs_dir|{found}")
        return "\n".join(line for line in self.err.splitlines() if line.strip() and not heading.match(line))

    @property
    def traceback(self) -> bool:
        """Whether the command ended with an exception that no message explains."""
        return self.status is None or "Traceback" in self.err or "This is a bug" in self.err

    @property
    def poor(self) -> list[str]:
        """What is wrong with the message."""
        wrong = []
        if self.status != self.case.status:
            wrong.append(f"status {self.status} instead of {self.case.status}")
        if not self.message.startswith("error: "):
            wrong.append("it does not begin with 'error: '")
        if len(self.message.splitlines()) > 2 or len(self.message) >= 500:
            wrong.append("it is longer than two lines or 500 characters")
        if not re.search(self.case.message, self.message):
            wrong.append(f"it does not match {self.case.message!r}")
        if SECRET in self.out + self.err:
            wrong.append("it shows an environment variable")
        return wrong

    def problems(self) -> str:
        """Returns everything that is wrong, or an empty text."""
        wrong = ["a traceback"] if self.traceback else []
        wrong += self.poor
        wrong += [f"left: {self.left}"] if self.left else []
        wrong += [f"executed: {self.executed}"] if self.executed else []
        return f"{self.case.line}\n  {'; '.join(wrong)}\n  {self.err[-3000:]}" if wrong else ""


class Runner:
    """Runs commands, each in a new folder.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.count = 0
        self.canary = self.folder / "canary"
        (self.folder / "modules").mkdir(parents=True)
        (self.folder / "modules" / "evil.py").write_text(EVIL.format(canary=str(self.canary)), encoding="utf-8")
        (self.folder / "torch").mkdir()
        self.models = given.Models(self.folder / "models", self.canary)
        self._warm_up()

    def _warm_up(self) -> None:
        """Trains two steps, so that the libraries have been imported and have made what they make when imported."""
        run = f"job=train tracking=none runs_dir={self.models.runs} trainer.max_steps=2 trainer.batch_size=8 {SMALL}"
        outcome = self.run(Case("warm-up", run, 0, "."), works=True, seconds=600.0)
        if outcome.status != 0:
            raise RuntimeError(outcome.err)

    def run(self, case: Case, *, works: bool = False, seconds: float = SECONDS) -> Outcome:
        """Runs a case.

        Args:
            case: The line.
            works: Whether the command may train and sample.
            seconds: Time after which it is ended.
        """
        self.count += 1
        place = self.folder / f"{self.count}"
        for name in ("work", "home", "temporary", "given"):
            (place / name).mkdir(parents=True)
        arguments = [self._argument(word, number, place) for number, word in enumerate(case.arguments)]
        before, outcome = listing(place), Outcome(case)
        out, err = io.StringIO(), io.StringIO()
        children = {child.pid for child in psutil.Process().children(recursive=True)}
        with _inside(place, case.environment, self.folder / "modules"), redirect_stdout(out), redirect_stderr(err):
            sys.argv = [f"{case.program}.py", *arguments]
            with watching(place) as watch, _limits(seconds), ExitStack() as stack:
                if not works:
                    stack.enter_context(patch.object(Trainer, "fit", accept))
                    stack.enter_context(patch.object(Sampler, "sample", accept))
                if (
                    "--config-dir" not in arguments
                ):  # Hydra composes once only to read hydra.mode, which conf/ leaves out
                    stack.enter_context(patch.object(Hydra, "get_mode", lambda *args, **kwargs: None))
                try:
                    main(case.program)
                except SystemExit as end:
                    outcome.status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
                except BaseException:
                    outcome.status = None
                    traceback.print_exc()
        outcome.out, outcome.err = out.getvalue(), err.getvalue()
        outcome.executed = watch.events
        if self.canary.exists():
            outcome.executed.append(f"the canary was {self.canary.read_text()}")
            self.canary.unlink()
        after = listing(place)
        outcome.left = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        for child in psutil.Process().children(recursive=True):
            if child.pid not in children:
                outcome.left.append(f"process {child.pid}")
                child.kill()
        return outcome

    def _argument(self, word: str, number: int, place: Path) -> str:
        """Makes the file that an argument names."""
        if (found := FILE.fullmatch(word)) is None:
            return word
        key, name, text = found.groups()
        folder = place / "given" / f"{number}"
        folder.mkdir()
        return f"{key}{given.MAKERS[name](folder, text or '', self.models)}"


def listing(folder: Path) -> dict[str, str]:
    """Returns every file below a folder with a hash of its content, and every folder."""
    found = {}
    for path in folder.rglob("*"):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = content
    return found


def forget_hydra() -> None:
    """Removes what Hydra keeps of the last command in this process."""
    GlobalHydra.instance().clear()
    Singleton._instances.pop(HydraConfig, None)


@contextmanager
def _inside(place: Path, environment: dict[str, str], modules: Path) -> Iterator[None]:
    """Makes a case's folder the working directory and home of this process, and undoes that and all of its traces."""
    kept = dict(os.environ), os.getcwd(), list(sys.argv), list(sys.path), tempfile.tempdir, sys.dont_write_bytecode
    forget_hydra()
    os.environ |= {"HOME": str(place / "home"), "TMPDIR": str(place / "temporary"), "SECRET": SECRET, **environment}
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(modules.with_name("torch"))
    os.chdir(place / "work")
    sys.path.append(str(modules))
    tempfile.tempdir, sys.dont_write_bytecode = str(place / "temporary"), True
    try:
        yield
    finally:
        variables, folder, sys.argv, sys.path[:], tempfile.tempdir, sys.dont_write_bytecode = kept
        os.chdir(folder)
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ |= variables
        sys.modules.pop("evil", None)
        forget_hydra()


@contextmanager
def _limits(seconds: float) -> Iterator[None]:
    """Ends a command that does not end by itself, and bounds its memory."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"no end after {seconds:.0f} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_AS, (soft, hard))
        handler = signal.signal(signal.SIGALRM, late)
        remaining, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
        stack.callback(signal.setitimer, signal.ITIMER_REAL, remaining)
        stack.callback(signal.signal, signal.SIGALRM, handler)
        yield
