"""Files that are written completely or not at all, and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pixelflow.errors import UserError, WorkFailed

if TYPE_CHECKING:
    from torch import Tensor

REPEAT = "run the same command again"

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
BROKEN = (errno.EIO, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT)
"""Errors of a disk or of a network filesystem."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which is renamed to `path` at the end of the block.

    The folder is made where it is missing. After an error the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, remedy: str = REPEAT) -> Iterator[None]:
    """Reports a full disk, a missing permission or a failing disk as an error that names the path and the remedy.

    Args:
        path: The file or folder that the block writes.
        remedy: What to do after the cause has been removed.

    Raises:
        WorkFailed: The disk or the quota is full, or the disk fails.
        UserError: The place does not allow writing.
    """
    try:
        yield
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror}"
        if error.errno in FULL:
            raise WorkFailed(f"{reason}; free space there, then {remedy}") from error
        if error.errno in FORBIDDEN:
            raise UserError(f"{reason}; choose another folder") from error
        if error.errno in BROKEN:
            raise WorkFailed(f"{reason}; check the disk, then {remedy}") from error
        raise


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are missing.

    Raises:
        WorkFailed: The disk or the quota is full, or the disk fails.
        UserError: The place does not allow it.
    """
    try:
        with writing(path):
            Path(path).mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a dangling link, or a file system such as /proc
        raise UserError(f"{path} cannot be made: {error.strerror}; choose another folder") from error


def write_aside(path: Path, content: bytes, *, remedy: str = REPEAT, durable: bool = False) -> Path:
    """Writes `content` beside `path`, then renames it.

    Args:
        path: The file; its folder is made where it is missing.
        content: The whole content.
        remedy: What to do after the cause of an error has been removed; see `writing`.
        durable: Whether to wait until the disk has the content, so that a power cut cannot leave an empty file.

    Returns:
        `path`.

    Raises:
        WorkFailed: The disk or the quota is full, or the disk fails.
        UserError: The place does not allow writing.
    """
    with writing(path, remedy), written_aside(path) as aside:
        aside.write_bytes(content)
        if durable:
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
    return Path(path)


def write_text(path: Path, text: str) -> Path:
    """Writes `text` as UTF-8 beside `path`, then renames it; see `write_aside`."""
    return write_aside(path, text.encode())


def write_json(path: Path, value: Any, *, durable: bool = False) -> Path:
    """Writes `value` as indented JSON beside `path`, then renames it; see `write_aside`."""
    return write_aside(path, json.dumps(value, indent=1).encode(), durable=durable)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file that is as readable as the user's umask says; safetensors makes it private.

    Args:
        tensors: Contiguous tensors by name.
        path: The file.
        metadata: Further texts by name.
    """
    from safetensors.torch import save_file  # it imports torch, which most users of this module do not need

    path.touch()  # asks the system for the permissions: reading the umask would change it in other threads
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(metadata) if metadata else None)
    path.chmod(mode)


class InUse(UserError):
    """Another process holds the lock."""


class NoLocks(UserError):
    """The filesystem does not support locks."""


def lock(path: Path, *, wait: bool = False) -> IO[str]:
    """Takes an exclusive lock on the file `path`.

    Only an operating system's "would block" counts as a lock in use; every other error is one of the filesystem.

    Args:
        path: The lock file; it is made where it is missing, and it stays.
        wait: Whether to wait for a process that holds the lock instead of raising.

    Returns:
        The open lock file. The lock ends when the file is closed or the process ends, however it ends. A forked child
        inherits the open file and, with it, the lock.

    Raises:
        InUse: Another process holds the lock.
        NoLocks: The filesystem does not support locks.
        UserError: The place does not allow writing.
        WorkFailed: The disk is full or fails.
    """
    with writing(path):
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        _take(file, wait)
    except BlockingIOError:
        file.close()
        raise InUse(f"{path.parent} is in use by another process; wait until it has ended") from None
    except OSError as error:
        file.close()
        raise NoLocks(
            f"{path} cannot be locked ({error.strerror}): this filesystem does not support file locks; "
            "use a folder on another one"
        ) from None
    return file


def _take(file: IO[str], wait: bool) -> None:
    for pause in (0.01, 0.1, 0.0):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not pause:
                raise
        time.sleep(pause)  # it may be `is_locked`, which is over at once


def is_locked(path: Path) -> bool | None:
    """Returns whether a process holds the lock on the file `path`; None where the filesystem does not tell.

    The file is only read, so that it may belong to another user.
    """
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[IO[str]]:
    """Holds an exclusive lock on the file `path` for the duration of the block; see `lock`.

    Yields:
        The open lock file.
    """
    with lock(path, wait=wait) as file:
        yield file
