"""A copy of the code, made when a sweep is submitted, so that later edits do not change jobs that wait."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixelflow.errors import UserError
from pixelflow.files import writing

logger = logging.getLogger(__name__)

RECORD = ".snapshot.json"
"""File in the copy that holds the commit and the diff of its source."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a checkout.

    Args:
        path: The folder of the copy.
        commit: The checkout's commit.
        diff: The checkout's uncommitted changes, which the copy contains.
    """

    path: str
    commit: str
    diff: str


def take_snapshot(root: Path, store: Path, *, uncommitted: Literal["record", "refuse"] = "record") -> Snapshot:
    """Copies the tracked files of `root`, as they are now, to `store/<hash of the files>`, unless that exists already.

    Args:
        root: The checkout.
        store: The folder of all copies.
        uncommitted: Whether uncommitted changes are copied and recorded, or refused.

    Raises:
        UserError: `root` is no git checkout, or has uncommitted changes and they are refused.
        WorkFailed: The disk is full.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        diff = _git(root, "diff", "HEAD")
        names = [name for name in _git(root, "ls-files", "-z").split("\0") if name and not name.startswith("tests/")]
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"{root} is no git checkout (or git is missing), so its code cannot be frozen for the jobs; "
            "clone the project with git, or run `git init && git add -A && git commit` there"
        ) from None
    unknown = _git(root, "ls-files", "--others", "--exclude-standard", "*.py", "*.yaml").split()
    if unknown:
        logger.warning("not tracked by git, so not in the jobs' code: %s", ", ".join(unknown[:5]))
    if diff and uncommitted == "refuse":
        files = [line.split(" b/")[-1] for line in diff.splitlines() if line.startswith("diff --git")]
        raise UserError(f"uncommitted changes in {', '.join(files)}: commit them, or set site.uncommitted=record")
    names = [name for name in names if os.path.lexists(root / name)]
    path = store / _digest(root, names, commit)
    if not path.exists():
        _copy(root, names, path, {"commit": commit, "diff": diff})
    return Snapshot(str(path), commit, diff)


def snapshot_record(root: Path) -> dict[str, str] | None:
    """Returns commit and diff of a copy; None for a folder that is no copy."""
    try:
        return json.loads((root / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _copy(root: Path, names: list[str], path: Path, record: dict[str, str]) -> None:
    """Copies aside and renames, so that two submitters at once leave one complete copy."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".new-{secrets.token_hex(8)}")  # as readable as the umask says, unlike a mkdtemp
        aside.mkdir()
        _fill(root, names, aside, path, record)


def _fill(root: Path, names: list[str], aside: Path, path: Path, record: dict[str, str]) -> None:
    try:
        for name in names:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, aside / name, follow_symlinks=False)
        (aside / RECORD).write_text(json.dumps(record), encoding="utf-8")
        aside.rename(path)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not path.exists():
            raise


def _digest(root: Path, names: list[str], commit: str) -> str:
    total = hashlib.sha256(commit.encode())
    for name in names:
        file = root / name
        content = os.readlink(file).encode() if file.is_symlink() else file.read_bytes()
        total.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:12]


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout
