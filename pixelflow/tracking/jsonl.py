"""`metrics.jsonl`, the record of everything that a run logged: one JSON object per line, only appended to.

    {"step": int, "time": t, "metrics": {name: value}}
    {"time": t, "params": {...}}
    {"time": t, "tags": {...}}
    {"time": t, "artifact": "path relative to the run folder"}
    {"time": t, "status": "FINISHED" | "FAILED" | "KILLED"}

Times are unix seconds. JSON has no NaN and no infinities: they are written as the strings "NaN", "Infinity" and
"-Infinity", which Python's float() reads back, so that any JSON parser can read the file.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from pixelflow.errors import WorkFailed
from pixelflow.files import REPEAT, writing

logger = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"
Status = Literal["FINISHED", "FAILED", "KILLED"]
"""The end of a run, in the terms of MLflow."""


class MetricsLog:
    """Writes `folder/metrics.jsonl`. Every line is one unbuffered write, so that a crash can cut only the last one.

    Args:
        folder: The run folder; it is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / FILE_NAME
        self._file = self.path.open("ab", buffering=0)
        self._cut = _last_byte(self.path) not in (b"", b"\n")
        self._already_logged: set[tuple[str, int]] = set()

    def resume_from(self, step: int) -> None:
        """Skips metrics that the file already holds for `step` and later steps when they are logged again.

        A run that crashed after its last checkpoint repeats those steps bit for bit, so the existing lines are still
        correct. MLflow, which may have received them, cannot delete metrics, and it would store a second line for the
        same step twice.

        Args:
            step: Training steps done when the run resumes.
        """
        self._already_logged = {
            (name, record["step"])
            for record, _ in read_records(self.path)
            if "metrics" in record and record["step"] >= step
            for name in record["metrics"]
        }

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Writes metrics.

        Args:
            values: Numbers by name.
            step: Training steps done.

        Raises:
            WorkFailed: The disk is full.
        """
        fresh = {name: float(value) for name, value in values.items() if (name, step) not in self._already_logged}
        if fresh:
            self._append({"step": int(step), "time": time.time(), "metrics": fresh})

    def params(self, mapping: Mapping[str, Any]) -> None:
        """Writes the run's settings by dotted key; values that JSON cannot hold are written as text."""
        self._append({"time": time.time(), "params": dict(mapping)})

    def tags(self, mapping: Mapping[str, Any]) -> None:
        """Writes tags of the run."""
        self._append({"time": time.time(), "tags": dict(mapping)})

    def artifact(self, path: Path) -> None:
        """Writes the path of a file or folder.

        Raises:
            ValueError: `path` is outside the run folder.
        """
        # Not resolve(): an artifact that is a link may point outside the folder.
        absolute, folder = Path(os.path.abspath(path)), Path(os.path.abspath(self.folder))
        if not absolute.is_relative_to(folder):
            raise ValueError(f"artifact {path} must be inside the run folder {self.folder}: copy it there first")
        self._append({"time": time.time(), "artifact": absolute.relative_to(folder).as_posix()})

    def status(self, status: Status) -> None:
        """Writes the end of the run.

        Raises:
            ValueError: `status` is not one of `Status`.
        """
        if status not in get_args(Status):
            raise ValueError(f"status={status!r} must be one of {get_args(Status)}")
        self._append({"time": time.time(), "status": status})

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(_without_non_finite(record), default=str, allow_nan=False).encode() + b"\n"
        if self._cut:
            line = b"\n" + line
        self._cut = True  # until the whole line is written: a full disk cuts it as a crash does
        with writing(self.path):
            written = self._file.write(line)
        if written != len(line):
            raise WorkFailed(
                f"{self.path} cannot be written: only a part of the line was; free space there, then {REPEAT}"
            )
        self._cut = False

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_records(path: Path, offset: int = 0, *, warn: bool = True) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields the records of a metrics.jsonl from a byte offset on.

    A broken line is skipped. So is a last line that is cut or still being written; the offset stays before it. Values
    of "metrics" are floats, including non-finite ones.

    Args:
        path: The file.
        offset: The byte at which to start.
        warn: Whether to log a warning for a skipped line.

    Yields:
        Each record, and the offset behind it, at which a later call can continue.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if "metrics" in record:
                    record["metrics"] = {name: float(value) for name, value in record["metrics"].items()}
                    record["step"] = int(record["step"])
                record["time"] = float(record["time"])
            except (ValueError, TypeError, KeyError, AttributeError):
                if warn:
                    logger.warning("%s: skipped the line that ends at byte %d: cut or broken", path, offset)
                continue
            yield record, offset


def history(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns every metric's (step, value), sorted by step; of two lines for the same step the later one counts."""
    values: dict[str, dict[int, float]] = {}
    for record, _ in read_records(path):
        for name, value in record.get("metrics", {}).items():
            values.setdefault(name, {})[record["step"]] = value
    return {name: sorted(by_step.items()) for name, by_step in values.items()}


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _without_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(entry) for entry in value]
    return value
