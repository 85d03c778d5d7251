"""Files that are written completely or not at all, and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pixelflow.errors import UserError, WorkFailed

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

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

SYNC_THREADS = 16
"""Calls of fsync at once. A file system answers those that wait together with one write of its journal."""

_unsynced: ContextVar[list[Path] | None] = ContextVar("_unsynced", default=None)
"""Files whose fsync is left to the end of `synced_together`; None outside of it."""


@contextmanager
def written_aside(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which is renamed to `path` at the end of the block.

    The folder is made where it is missing. After an error the temporary file is removed and `path` stays as it was.

    Args:
        path: The file.
        durable: Whether to wait until the disk has the file, so that a power cut cannot leave an empty one. This takes
            milliseconds: leave it out for files that are written very often, or that are checked when they are read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several hosts write to the same folder, and their process ids can be equal.
    host = socket.gethostname().partition(".")[0][:32]
    aside = path.with_name(f".{path.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    together = _unsynced.get()
    try:
        yield aside
        if durable and together is None:
            sync_to_disk(aside)
        aside.replace(path)
        if durable and together is None:
            sync_to_disk(path.parent)
        elif durable and together is not None:
            together.append(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def synced_together() -> Iterator[None]:
    """Files that the block writes aside are flushed to the disk at its end, all at once.

    For one file after the other the disk takes milliseconds each, which is too long for the files of many runs.
    """
    paths: list[Path] = []
    before = _unsynced.set(paths)
    try:
        yield
    finally:
        _unsynced.reset(before)
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        for group in (set(paths), {path.parent for path in paths}):
            list(pool.map(sync_to_disk, group))


def sync_to_disk(path: Path) -> None:
    """Flushes a file or folder to the disk, so that a later rename does not reach the disk before it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some file systems do not synchronise folders, and a folder may be closed to readers.
        if not Path(path).is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES):
            raise


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


def write_aside(path: Path, content: bytes, *, remedy: str = REPEAT, durable: bool = True) -> Path:
    """Writes `content` beside `path`, then renames it.

    Args:
        path: The file; its folder is made where it is missing.
        content: The whole content.
        remedy: What to do after the cause of an error has been removed; see `writing`.
        durable: See `written_aside`.

    Returns:
        `path`.

    Raises:
        WorkFailed: The disk or the quota is full, or the disk fails.
        UserError: The place does not allow writing.
    """
    with writing(path, remedy), written_aside(path, durable=durable) as aside:
        aside.write_bytes(content)
    return Path(path)


def write_text(path: Path, text: str) -> Path:
    """Writes `text` as UTF-8 beside `path`, then renames it; see `write_aside`."""
    return write_aside(path, text.encode())


def write_json(path: Path, value: Any, *, durable: bool = True) -> Path:
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


_patience: ContextVar[Callable[[float], bool]] = ContextVar("_patience", default=lambda waited: False)
"""Whether to continue to wait for a lock, by the seconds that have passed; see `patient`."""

POLL = 1.0
"""Seconds between two attempts at a lock that is waited for."""


@contextmanager
def patient(waits: Callable[[float], bool]) -> Iterator[None]:
    """Lets the calls of `lock` with `patient=True` wait, as a job of a sweep does.

    A lock outlives its process where the host is lost: the server of a network filesystem releases it after its lease,
    which is 90 s for NFS.

    Args:
        waits: Returns whether to continue to wait after so many seconds.
    """
    before = _patience.set(waits)
    try:
        yield
    finally:
        _patience.reset(before)


def lock(path: Path, *, wait: bool = False, patient: bool = False) -> IO[str]:
    """Takes an exclusive lock on the file `path`.

    Only an operating system's "would block" counts as a lock in use; every other error is one of the filesystem.

    Args:
        path: The lock file; it is made where it is missing, and it stays.
        wait: Whether to wait for a process that holds the lock instead of raising.
        patient: Whether to wait inside the block of `patient`, as long as that says.

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
        _take(file, path, wait, _patience.get() if patient else lambda waited: False)
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


def _take(file: IO[str], path: Path, wait: bool, waits: Callable[[float], bool]) -> None:
    start, waiting = time.monotonic(), False
    # The first pauses are short, because the holder may be `is_locked`, which is over at once.
    for pause in itertools.chain((0.01, 0.1), itertools.repeat(POLL)):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause == POLL:
                if not waits(time.monotonic() - start):
                    raise
                if not waiting:
                    logger.warning("%s is in use by another process: waiting until it has ended", path.parent)
                waiting = True
        time.sleep(pause)


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
def locked(path: Path, *, wait: bool = False, patient: bool = False) -> Iterator[IO[str]]:
    """Holds an exclusive lock on the file `path` for the duration of the block; see `lock`.

    Yields:
        The open lock file.
    """
    with lock(path, wait=wait, patient=patient) as file:
        yield file
