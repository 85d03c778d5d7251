"""Records what a command does besides printing: programs, connections, and files outside its own folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
)
REACHES = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "webbrowser.open")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_watches: list[Watch] = []


class Watch:
    """The events of one command.

    Args:
        allowed: Folder in which it may write.
    """

    def __init__(self, allowed: Path) -> None:
        self.allowed = str(allowed)
        self.events: list[str] = []

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        """Notes an event that no refused command causes."""
        if event in STARTS or event in REACHES:
            self.events.append(f"{event} {args!r}"[:200])
        elif event == "import" and str(args[0]).partition(".")[0] == "evil":
            self.events.append("import evil")
        elif event in CHANGES or (event == "open" and _writes(args)):
            path = args[0] if isinstance(args[0], str) else os.fsdecode(args[0]) if isinstance(args[0], bytes) else ""
            outside = os.path.isabs(path) and not path.startswith((self.allowed, "/dev/"))
            if outside:
                self.events.append(f"{event} {path}")


def _writes(args: tuple[Any, ...]) -> bool:
    _, mode, flags = args
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & WRITING)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watches:
        _watches[-1].see(event, args)


sys.addaudithook(_hook)  # it cannot be removed, so there is one for all commands


@contextmanager
def watching(allowed: Path) -> Iterator[Watch]:
    """Watches this process during the block."""
    watch = Watch(allowed)
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.pop()
