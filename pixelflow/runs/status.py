"""`status.json` in a run folder: its state, step and message; and the lock that a working process holds."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pixelflow.files import write_json


def read_status(folder: Path) -> dict[str, Any]:
    """Of a run folder; {} where there is none."""
    try:
        return json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_status(folder: Path, state: str, message: str = "", **more: Any) -> None:
    """For a run that no process works on: step and what else is known stay."""
    kept = {key: value for key, value in read_status(folder).items() if key in ("step", "max_steps", "job")}
    write_json(folder / "status.json", {"state": state, "message": message, **kept, **more, "updated": time.time()})


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Whether the run's lock could be had; it is let go at the end. False: a process is at work there."""
    with open(folder / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
