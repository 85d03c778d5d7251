"""`attempts.jsonl` in a run folder: the starts and ends of the processes that worked on it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "attempts.jsonl"


@dataclass(frozen=True)
class Attempts:
    """failures: ends in failure since somebody asked to try again. restarts: starts since the submission `token`, less
    one. stalls: deaths without a word at the end of the list, between which no step was made."""

    failures: int = 0
    restarts: int = 0
    stalls: int = 0


def record(folder: Path, event: str, **about: Any) -> None:
    """event: start, end or retry."""
    line = json.dumps({"event": event, "time": time.time(), **about}) + "\n"
    with (folder / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(line)


def read_attempts(folder: Path, token: str | None = None) -> Attempts:
    """token: of the submission whose restarts count; the newest if None."""
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return Attempts()
    failures, starts, stalls = 0, [], 0
    open_since: int | None = None  # the step at which the attempt began that has no end yet
    last_step = -1
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut by a crash
            continue
        if entry["event"] == "retry":
            failures, stalls = 0, 0
        elif entry["event"] == "start":
            if open_since is not None:  # the last attempt died together with what watches over it
                stalls = stalls + 1 if entry["step"] <= open_since else 0
            elif entry["step"] > last_step:
                stalls = 0
            open_since = last_step = entry["step"]
            starts.append(entry["token"])
        else:
            failures += entry["outcome"] == "failed"
            if entry["outcome"] == "killed":
                stalls = stalls + 1 if open_since is not None and entry["step"] <= open_since else 1
            else:
                stalls = 0
            open_since = None
    token = token or (starts[-1] if starts else "")
    return Attempts(failures, max(0, starts.count(token) - 1), stalls)
