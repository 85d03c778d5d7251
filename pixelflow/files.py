"""Files that are written whole or not at all, and locks between processes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pixelflow.errors import UserError


def write_aside(path: Path, content: bytes) -> Path:
    """Writes beside `path`, then renames; makes the folder. Returns `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    return write_aside(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
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
