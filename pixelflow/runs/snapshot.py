"""A copy of the code, made when a sweep is submitted, so that later edits do not change jobs that wait."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import write_text, writing, written_aside

logger = logging.getLogger(__name__)

RECORD = ".snapshot.json"
"""File in the copy that holds the commit and the diff of its source."""
FILES = ".files.sha256"
"""File in the copy that lists its files and their hashes, as sha256sum reads it."""
_REFUSALS = {
    "not a git repository": "is no git checkout: clone the project with git, or run `git init && git add -A && git commit` "
    "there",
    "dubious ownership": "belongs to another user, and git does not read it: run "
    "`git config --global --add safe.directory {root}`",
    "ambiguous argument 'HEAD'": "has no commit yet: run `git add -A && git commit` there",
}
"""What git reports, and what it means for a folder."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a checkout.

    Args:
        path: The folder of the copy.
        commit: The checkout's commit.
        diff: The checkout's uncommitted changes, which the copy contains.
        listed: Whether the copy lists its files, by which a job checks that it is complete.
    """

    path: str
    commit: str
    diff: str
    listed: bool = False


def take_snapshot(root: Path, store: Path, *, uncommitted: Literal["record", "refuse"] = "record") -> Snapshot:
    """Copies the tracked files of `root`, as they are now, to `store/<hash of the files>`.

    The copied files have the present time, since file systems for temporary data remove files that are old. A copy that
    exists already is completed where files are missing or differ, and gets the present time as well.

    Args:
        root: The checkout.
        store: The folder of all copies.
        uncommitted: Whether uncommitted changes are copied and recorded, or refused.

    Raises:
        UserError: git does not read `root`, or there are uncommitted changes and they are refused.
        WorkFailed: The disk is full, or git does not answer.
    """
    commit = _git(root, "rev-parse", "HEAD").strip()
    diff = os.fsencode(_git(root, "diff", "HEAD", "--", ".", ":!tests")).decode(errors="replace")
    unknown = _git(root, "ls-files", "--others", "--exclude-standard", "*.py", "*.yaml").split()
    if unknown:
        logger.warning("not tracked by git, so not in the jobs' code: %s", ", ".join(unknown[:5]))
    if diff and uncommitted == "refuse":
        files = [line.split(" b/")[-1] for line in diff.splitlines() if line.startswith("diff --git")]
        raise UserError(f"uncommitted changes in {', '.join(files)}: commit them, or set site.uncommitted=record")
    names = [name for name in _git(root, "ls-files", "-z").split("\0") if name and not name.startswith("tests/")]
    hashes = {name: found for name in names if (found := _hash(root / name))}
    path = store / hashlib.sha256(json.dumps([commit, hashes]).encode()).hexdigest()[:12]
    with writing(path):
        if path.exists():
            _complete(root, path, hashes, {"commit": commit, "diff": diff})
        else:
            _copy(root, path, hashes, {"commit": commit, "diff": diff})
    return Snapshot(str(path), commit, diff, listed=True)


def snapshot_record(root: Path) -> dict[str, str] | None:
    """Returns commit and diff of a copy; None for a folder that is no copy."""
    try:
        return json.loads((root / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def require_complete(snapshot: Snapshot) -> None:
    """Checks that all files of a copy are as they were copied.

    Raises:
        UserError: Files are missing or differ. A copy without a list of its files is not checked.
    """
    if not snapshot.listed:
        return
    path = Path(snapshot.path)
    try:
        lines = (path / FILES).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lost = [FILES]
    else:
        lost = [name for digest, _, name in (line.partition("  ") for line in lines) if _hash(path / name) != digest]
    if lost:
        raise UserError(
            f"{path}, the frozen code of commit {snapshot.commit[:12]}, has lost or changed {len(lost)} files "
            f"({', '.join(lost[:3])}): repeat the sweep's own command, which freezes the code again"
        )


def _copy(root: Path, path: Path, hashes: Mapping[str, str], record: Mapping[str, str]) -> None:
    """Copies aside and renames, so that two submitters at once leave one complete copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".new-{secrets.token_hex(8)}")  # as readable as the umask says, unlike a mkdtemp
    aside.mkdir()
    try:
        _complete(root, aside, hashes, record)
        aside.rename(path)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not path.exists():
            raise


def _complete(root: Path, path: Path, hashes: Mapping[str, str], record: Mapping[str, str]) -> None:
    """Copies the files that `path` lacks or has otherwise, and gives all others the present time."""
    for name, digest in hashes.items():
        if _hash(path / name) == digest:
            _touch(path / name)
        else:
            with written_aside(path / name, durable=False) as aside:  # a job checks the files
                shutil.copy(root / name, aside, follow_symlinks=False)
    text = json.dumps(record)
    # sha256sum follows links, and has another form for names with a line break or a backslash.
    plain = [name for name in hashes if not (root / name).is_symlink() and not set("\n\\") & set(name)]
    lines = [f"{hashes[name]}  {name}\n" for name in plain]
    lines.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {RECORD}\n")
    for name, content in ((RECORD, text), (FILES, "".join(lines))):
        if _hash(path / name) == hashlib.sha256(os.fsencode(content)).hexdigest():
            _touch(path / name)
        else:
            write_text(path / name, content)
    _touch(path)


def _touch(path: Path) -> None:
    with suppress(OSError):  # a complete copy of another user, which may be used but not changed
        os.utime(path, follow_symlinks=False)


def _hash(path: Path) -> str:
    """The SHA-256 of a file, or of the target of a link; empty where there is neither."""
    try:
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""
    return hashlib.sha256(content).hexdigest()


def _git(root: Path, *arguments: str) -> str:
    """Returns what git prints.

    Raises:
        UserError: git is missing, or refuses; the message states what it reports.
        WorkFailed: git does not answer.
    """
    command = ["git", "-C", str(root), *arguments]
    english = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="surrogateescape", timeout=60, env=english
        )
    except FileNotFoundError:
        raise UserError(
            f"there is no git on this machine, and the code in {root} is frozen with it for the jobs: install git"
        ) from None
    except subprocess.TimeoutExpired:
        raise WorkFailed(f"git {arguments[0]} in {root}: no answer within 60 s; repeat the command") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("fatal:")] or [done.stderr.strip()]
        meanings = [text.format(root=root) for mark, text in _REFUSALS.items() if mark in done.stderr]
        meaning = meanings[0] if meanings else f"cannot be read by `git {' '.join(arguments)}`"
        raise UserError(f"{root} {meaning}; its code cannot be frozen for the jobs (git: {lines[0]})")
    return done.stdout
