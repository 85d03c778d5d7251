"""Names and places of what is written: what a name may consist of, and where the results of a checkpoint go."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

from pixelflow.errors import UserError
from pixelflow.runs.identity import file_name

logger = logging.getLogger(__name__)

FOREIGN = "_checkpoints"
"""Folder below `runs_dir` for the results of checkpoints of other runs. No experiment can have this name."""

DEBUG_FOLDER = "debug"
"""Folder below `runs_dir` for the runs and results of debug=true. No experiment can have this name."""

LONGEST_NAME = 100
LONGEST_PART = 255
LONGEST_PATH = 4000


def check_name(name: str, key: str) -> None:
    """Checks a name that becomes the name of a folder and a word of shell commands.

    Raises:
        UserError: The name has another form; the message begins with the key and states the accepted form.
    """
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}", name):
        raise UserError(
            f"{key}={name!r} must be 1 to {LONGEST_NAME} letters, digits, '.', '_' or '-', and begin with a letter "
            "or a digit"
        )


def check_experiment(name: str, key: str) -> None:
    """Checks the name of an experiment, see `check_name`.

    Raises:
        UserError: The name has another form, or it is that of the folder of debug runs.
    """
    check_name(name, key)
    if name == DEBUG_FOLDER:
        raise UserError(f"{key}={name} is the folder of debug=true; choose another name")


def output_folder(output: str, *, debug: bool, runs_dir: str | Path) -> Path:
    """Returns the folder `output` for the results of a job; with debug=true the folder of that name in `runs_dir`."""
    return Path(runs_dir) / Path(output).name if debug else Path(output)


def check_path(path: str, key: str) -> None:
    """Checks the text of a path; nothing needs to exist.

    Raises:
        UserError: The path is empty, too long, holds control characters, or begins with ~.
    """
    if not path.strip():
        raise UserError(f"{key}={path!r} must be a path; leave {key} out for its default")
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise UserError(f"{key}={path!r} must not hold control characters")
    if len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(p)) > LONGEST_PART for p in path.split("/")):
        raise UserError(f"{key} must be a path of names of at most {LONGEST_PART} bytes (got {path[:60]!r}...)")


def check_writable(path: str, key: str) -> None:
    """Checks that a folder exists and can be written, or that it can be made. Nothing is made.

    Raises:
        UserError: The path leads to something else, or the place does not allow writing.
    """
    place = Path(path).absolute()
    while not os.path.lexists(place):
        place = place.parent
    shown = f"{key}={path}" + ("" if place == Path(path).absolute() else f": {place}")
    if place.is_symlink() and not place.exists():
        raise UserError(f"{shown} is a link to {os.readlink(place)}, which does not exist; choose another folder")
    if not place.is_dir():
        raise UserError(f"{shown} is not a folder; choose another one")
    # A file system without blocks, such as /proc, holds no files even where its permissions seem to allow them.
    if not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_blocks == 0:
        raise UserError(f"{shown} does not allow writing; choose another folder")


def home_of(checkpoint: str | Path, runs_dir: str | Path) -> Path:
    """Returns the folder for the samples and evaluations of a checkpoint.

    It is the checkpoint's run if that is a run by its own files, lies below `runs_dir` and can be written. Otherwise
    it is a folder below `runs_dir` whose name is derived from the content of the checkpoint, so that the same
    checkpoint finds its results again, wherever it lies.

    Args:
        checkpoint: A checkpoint folder, with its state.json.
        runs_dir: Folder of all experiments.
    """
    folder, root = Path(checkpoint).resolve(), Path(runs_dir)
    run = folder.parent.parent
    is_run = folder.parent.name == "checkpoints" and (run / "config.yaml").is_file()
    if is_run and run.is_relative_to(root.resolve()) and os.access(run, os.W_OK | os.X_OK):
        return run
    digest = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()[:12]
    return root / FOREIGN / f"{file_name(folder.name)}-{digest}"


def report_home(home: Path, checkpoint: str | Path) -> None:
    """Logs where the results of a checkpoint go unless that is its own run."""
    if home.parent.name == FOREIGN:
        logger.info("%s belongs to no run of yours in runs_dir; its results go to %s", checkpoint, home)
