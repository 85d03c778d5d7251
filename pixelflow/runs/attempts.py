"""`attempts.jsonl` in a run folder: the starts and ends of the processes that worked on it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.files import writing

FILE_NAME = "attempts.jsonl"


@dataclass(frozen=True)
class Attempts:
    """Counts of the attempts of a run.

    Args:
        failures: Attempts that failed since the last job=retry.
        restarts: Starts by the submission in question, less one.
        stalls: Consecutive attempts at the end of the list that were killed without a step of progress.
    """

    failures: int = 0
    restarts: int = 0
    stalls: int = 0


def record(folder: Path, event: str, **about: Any) -> None:
    """Appends an event to a run's attempts.jsonl.

    Args:
        folder: The run folder.
        event: start, end or retry.
        **about: A start has `step` and `token`, the submission; an end has `step`, `outcome` and `exit`.
    """
    line = json.dumps({"event": event, "time": time.time(), **about}) + "\n"
    path = folder / FILE_NAME
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(line)


def read_attempts(folder: Path, token: str | None = None) -> Attempts:
    """Returns the counts of a run's attempts; zeros where there was none.

    Args:
        folder: The run folder.
        token: The submission whose restarts count; by default the newest.
    """
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return Attempts()
    failures, starts, stalls = 0, [], 0
    open_since: int | None = None  # the first step of the attempt without an end
    last_step = -1
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # a line that a crash cut
            continue
        if entry["event"] == "retry":
            failures, stalls = 0, 0
        elif entry["event"] == "start":
            if open_since is not None:  # the last attempt ended together with its supervisor
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
