"""`metrics.jsonl`, the truth about what a run logged: one JSON object a line, only ever appended to.

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
"""How a run ended, in MLflow's words."""


class MetricsLog:
    """Writes `folder/metrics.jsonl`. Every line is one unbuffered write, so a crash can cut the last one only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / FILE_NAME
        self._file = self.path.open("ab", buffering=0)
        self._cut = _last_byte(self.path) not in (b"", b"\n")
        self._already_logged: set[tuple[str, int]] = set()

    def resume_from(self, step: int) -> None:
        """Training goes on from `step`: metrics that the file already has for it and later steps are not written again.

        A run that crashed beyond its last checkpoint repeats those steps bit for bit, so the lines there are still
        true. Cutting them off would take back what MLflow was told, where nothing can be deleted, and a second line
        for the same step would be stored there twice.
        """
        self._already_logged = {
            (name, record["step"])
            for record, _ in read_records(self.path)
            if "metrics" in record and record["step"] >= step
            for name in record["metrics"]
        }

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """values: anything that float() takes, by name. step: training steps done."""
        fresh = {name: float(value) for name, value in values.items() if (name, step) not in self._already_logged}
        if fresh:
            self._append({"step": int(step), "time": time.time(), "metrics": fresh})

    def params(self, mapping: Mapping[str, Any]) -> None:
        """The run's settings, flat. What JSON cannot hold is written as its str()."""
        self._append({"time": time.time(), "params": dict(mapping)})

    def tags(self, mapping: Mapping[str, Any]) -> None:
        self._append({"time": time.time(), "tags": dict(mapping)})

    def artifact(self, path: Path) -> None:
        """A file or directory of the run folder. Raises ValueError where it is outside."""
        # Not resolve(): an artifact that is a link still has its place in the folder.
        absolute, folder = Path(os.path.abspath(path)), Path(os.path.abspath(self.folder))
        if not absolute.is_relative_to(folder):
            raise ValueError(f"artifact {path} must be inside the run folder {self.folder}: copy it there first")
        self._append({"time": time.time(), "artifact": absolute.relative_to(folder).as_posix()})

    def status(self, status: Status) -> None:
        """The run's end. Raises ValueError for another word than those of Status."""
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
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_records(path: Path, offset: int = 0, *, warn: bool = True) -> Iterator[tuple[dict[str, Any], int]]:
    """The records from byte `offset` on, each with the offset behind it, where reading may go on later.

    A broken line is skipped, with a warning unless `warn` is False; so is a last line that is cut or still being
    written, and the offset stays before it. Values of "metrics" are floats, non-finite ones too.
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
    """Every metric's (step, value), sorted by step. Where a step was logged twice the later line wins."""
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
