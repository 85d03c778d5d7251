"""The program of a sweep's jobs: interpreter, entry module, frozen code, and the user's own modules.

The package's code is copied when a sweep is submitted (`pixelflow/runs/snapshot.py`). A user's own modules are not
copied: the job gets the folders in which the submitting process could import them.
"""

from __future__ import annotations

import os
import shlex
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pixelflow.files import write_json
from pixelflow.runs.snapshot import FILES, Snapshot
from pixelflow.sweeps.json_records import read_record

FILE_NAME = "program.json"


@dataclass(frozen=True, kw_only=True)
class Program:
    """The program that a job runs.

    Args:
        entry: The module that runs one frozen job, as `python -m ENTRY FILE`. The layer that starts a sweep names it.
        snapshot: The frozen code of the package.
        user_paths: The folders from which the user's own modules are imported.
        python: The interpreter.
        cwd: The working directory.
    """

    entry: str
    snapshot: Snapshot
    user_paths: list[str]
    python: str
    cwd: str

    @staticmethod
    def of_this_process(entry: str, snapshot: Snapshot, root: Path) -> Program:
        """Returns the program that imports what this process imports, with the package from `snapshot`.

        Args:
            entry: The module that runs one frozen job.
            snapshot: The frozen code of the package.
            root: The folder of the package in this process, which the snapshot replaces.
        """
        return Program(
            entry=entry, snapshot=snapshot, user_paths=user_paths(sys.path, root), python=sys.executable,
            cwd=str(Path.cwd()),
        )  # fmt: skip

    @staticmethod
    def load(folder: Path) -> Program:
        """Reads the program of the submission in `folder`."""
        return read_record(folder / FILE_NAME, Program)

    def save(self, folder: Path) -> None:
        """Writes the program to the folder of a submission."""
        write_json(folder / FILE_NAME, asdict(self))

    def python_path(self, *others: str) -> str:
        """Returns a value of PYTHONPATH with the frozen code first, then the user's folders, then `others`."""
        return os.pathsep.join(path for path in (self.snapshot.path, *self.user_paths, *others) if path)

    def set_up(self, lines: Sequence[str]) -> list[str]:
        """Returns the lines of a batch script before the job's process.

        A job ends there if files of the frozen code are missing or changed, before Python could import other code.

        Args:
            lines: The site's own lines. What they add to PYTHONPATH comes after the frozen code.
        """
        path = self.python_path()
        ours = [f"export PYTHONPATH={shlex.quote(path)}${{PYTHONPATH:+:$PYTHONPATH}}"] if path else []
        return [*self._check(), f"cd {shlex.quote(self.cwd)}", *lines, *ours]

    def _check(self) -> list[str]:
        """The lines that end a job whose code is not complete. A machine without sha256sum does not check."""
        if not self.snapshot.listed:
            return []
        compare = f'cd "$code" 2>/dev/null && LC_ALL=C sha256sum --check --quiet {FILES} 2>/dev/null'
        names = "sed 's/: FAILED.*//' | head -n 5 | tr '\\n' ' '"
        error = "$code, the frozen code, has lost or changed $lost: repeat the sweep's own command, which copies it"
        return [
            f"code={shlex.quote(self.snapshot.path)}",
            f"lost=$(command -v sha256sum >/dev/null && {compare} | {names})",
            f'[ -f "$code/{FILES}" ] || lost="all files"',
            f'[ -z "$lost" ] || {{ echo "{error}" >&2; exit 1; }}',
        ]

    def command(self, module: str, *arguments: str | Path) -> list[str]:
        """Returns the command that runs a module of the frozen code.

        With `-P`, Python does not put the working directory before the snapshot.
        """
        return [self.python, "-P", "-m", module, *map(str, arguments)]


def user_paths(paths: Iterable[str], root: Path) -> list[str]:
    """Returns the folders of `paths` (of `sys.path`) that hold neither Python, nor installed packages, nor `root`.

    The empty entry stands for the current folder.
    """
    found: list[str] = []
    for path in (Path(entry or ".").resolve() for entry in paths):
        of_python = is_installed(path) or path == Path(sys.executable).parent
        if path.is_dir() and path != root.resolve() and not of_python and str(path) not in found:
            found.append(str(path))
    return found


def is_installed(path: Path) -> bool:
    """Whether `path` is, or lies in, a folder of Python's library or of installed packages."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*(sysconfig.get_path(name) for name in names), *site.getsitepackages(), site.getusersitepackages()]
    return any(path.resolve().is_relative_to(Path(folder).resolve()) for folder in folders)
