"""A disk that fails: the n-th call of the system that a save makes raises an error."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
from safetensors import SafetensorError

CALLS = [
    (os, "mkdir"), (os, "open"), (os, "fsync"), (os, "rename"), (os, "replace"), (os, "chmod"), (os, "unlink"),
    (os, "rmdir"), (io, "open"),
]  # fmt: skip


class FailingDisk:
    """Counts the calls that make, write, rename or remove files, and lets one of them fail.

    Args:
        at: Number of the call that fails, from 1.
        error: `errno.ENOSPC`, `errno.EIO` or another.
        stays: Whether all later calls fail as well.
    """

    def __init__(self, at: int, error: int, *, stays: bool = False) -> None:
        self.at, self.error, self.stays = at, error, stays
        self.calls = 0
        self.failed: list[str] = []

    def counts(self, name: str) -> OSError | None:
        """Counts a call, and returns the error that it must raise."""
        self.calls += 1
        if self.calls == self.at or (self.stays and self.calls > self.at):
            self.failed.append(name)
            return OSError(self.error, os.strerror(self.error))
        return None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Watches the calls of the block, in all threads."""
        with ExitStack() as stack:
            for module, name in CALLS:
                stack.enter_context(patch.object(module, name, self._wrapped(name, getattr(module, name))))
            stack.enter_context(patch.object(Path, "write_text", self._half(Path.write_text)))
            stack.enter_context(patch.object(safetensors.torch, "save_file", self._tensors()))
            yield

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if problem := self.counts(name):
                raise problem
            return function(*args, **kwargs)

        return call

    def _half(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A text of which a half is written before the error."""

        def write(path: Path, text: str, *args: Any, **kwargs: Any) -> Any:
            if problem := self.counts("write_text"):
                function(path, text[: len(text) // 2], *args, **kwargs)
                raise problem
            return function(path, text, *args, **kwargs)

        return write

    def _tensors(self) -> Callable[..., Any]:
        """safetensors reports errors of the disk as SafetensorError, and may leave a part of the file."""
        real = safetensors.torch.save_file

        def save(tensors: Any, path: Path, *args: Any) -> None:
            if problem := self.counts("save_file"):
                Path(path).write_bytes(b"what still fitted")
                raise SafetensorError(f"Error while serializing: I/O error: {problem}")
            real(tensors, path, *args)

        return save


ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO}
