"""Bad samples: counted by reason, listed in the run folder, refused where there are too many."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

MIN_DRAWN = 1000
"""Draws from which on a share is a share: before that, as many bad samples are allowed as in so many draws."""

TOLD = 10
"""Bad samples that the log names."""


@dataclass(frozen=True)
class Found:
    """A sample that could not be used.

    index: in its source. file, reason, detail: for a person. filtered: left out on purpose.
    """

    index: int
    file: str
    reason: str
    detail: str
    filtered: bool


class DirtyData(ValueError):
    """More samples cannot be used than are allowed."""


class DirtyReport:
    """Counts bad samples, and appends each once to `<folder>/bad_samples.jsonl` (another name for a rank above 0).

    max_share: of the samples drawn in this process; more raises DirtyData. folder: None keeps the list in memory.
    """

    def __init__(self, *, folder: Path | None, max_share: float, rank: int = 0) -> None:
        self.max_share, self.drawn, self.damaged = max_share, 0, 0
        self.reasons: Counter[str] = Counter()
        self.path = None
        self._listed: set[int] = set()
        if folder is not None:
            self.path = folder / ("bad_samples.jsonl" if rank == 0 else f"bad_samples.rank{rank}.jsonl")
            if self.path.exists():  # of the run before a restart
                for line in self.path.read_text(encoding="utf-8").splitlines():
                    self._count(json.loads(line))

    def _count(self, line: dict) -> None:
        self._listed.add(line["index"])
        self.reasons[line["reason"]] += 1

    def add(self, *, drawn: int, found: list[Found]) -> None:
        """drawn: samples that were read, good ones and bad ones. Raises DirtyData."""
        self.drawn += drawn
        for bad in found:
            self.damaged += not bad.filtered
            if bad.index in self._listed:
                continue
            line = {"index": bad.index, "file": bad.file, "reason": bad.reason, "detail": bad.detail}
            self._count(line)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")
            if not bad.filtered and self.damaged <= TOLD:
                logger.warning("left out %s: %s%s", bad.file, bad.reason, f" ({bad.detail})" if bad.detail else "")
                if self.damaged == TOLD:
                    logger.warning(
                        "further ones are only counted and listed%s", f" in {self.path}" if self.path else ""
                    )
        if self.damaged > self.max_share * max(self.drawn, MIN_DRAWN):
            raise DirtyData(
                f"{self.damaged} of {self.drawn} samples cannot be used ({self.summary()}), more than "
                f"data.reading.max_bad_share={self.max_share:g}"
                + (f"; {self.path} lists them" if self.path else f"; the last was {found[-1].file}" if found else "")
            )

    def summary(self) -> str:
        """ "12 corrupt image, 3 missing label"."""
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
