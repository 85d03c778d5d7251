"""Files that are written whole or not at all, and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pixelflow.errors import UserError, WorkFailed


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which is renamed to `path` at the end of the block.

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


def write_aside(path: Path, content: bytes) -> Path:
    """Write `content` beside `path`, then rename it. Returns `path`."""
    with written_aside(path) as aside:
        aside.write_bytes(content)
    return Path(path)


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Report a full disk or a missing permission as an error that names the path and the remedy.

    Args:
        path: The file or folder that the block writes.
        remedy: What to do after space has been freed, for example "run the same command again".

    Raises:
        WorkFailed: The disk or the quota is full.
        UserError: The place does not allow writing.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkFailed(f"{path} cannot be written: {error.strerror}; free space there, then {remedy}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path} cannot be written: {error.strerror}; choose another folder") from error
        raise


def write_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8 beside `path`, then rename it. Returns `path`."""
    return write_aside(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON beside `path`, then rename it. Returns `path`."""
    return write_text(path, json.dumps(value, indent=1))


class InUse(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[IO[str]]:
    """Hold an exclusive lock on the file `path` for the duration of the block.

    The lock belongs to the open file and ends with the process, however it ends.

    Args:
        path: The lock file; it is made where it is missing, and it stays.
        wait: Whether to wait for a process that holds the lock instead of raising.

    Yields:
        The open lock file.

    Raises:
        InUse: Another process holds the lock.
        UserError: The filesystem does not support locks.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"{path.parent} is in use by another process; wait until it has ended") from None
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error.strerror}): this filesystem does not support file locks; "
                "use a folder on another one"
            ) from None
        yield file
