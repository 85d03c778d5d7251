"""Counts bad samples by reason, lists them in the run folder, and ends the work when there are too many."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelflow.errors import UserError
from pixelflow.files import writing

logger = logging.getLogger(__name__)

MIN_DRAWN = 1000
"""The accepted share is taken of at least this number of samples, so that a few early bad ones do not end a run."""

LOGGED = 10
"""Number of bad samples that the log names one by one."""


@dataclass(frozen=True)
class Found:
    """A sample that could not be used.

    Args:
        index: Index in its source.
        file: File and position, for a reader.
        reason: Phrase by which bad samples are counted.
        detail: What was found.
        filtered: Whether it was left out on purpose.
    """

    index: int
    file: str
    reason: str
    detail: str
    filtered: bool


class DirtyData(UserError):
    """More samples are damaged than `max_bad_share` accepts."""


class DirtyReport:
    """Counts bad samples and appends each of them once to `bad_samples.jsonl`.

    Args:
        folder: Folder of the list; None keeps the list in memory.
        max_share: Largest accepted share of damaged samples among those drawn in this process.
        rank: Rank of this process; ranks above 0 write to `bad_samples.rank<rank>.jsonl`.

    Raises:
        UserError: The list of an earlier start cannot be read.
    """

    def __init__(self, *, folder: Path | None, max_share: float, rank: int = 0) -> None:
        self.max_share, self.drawn, self.damaged = max_share, 0, 0
        self.reasons: Counter[str] = Counter()
        self.path = None
        self._listed: set[int] = set()
        if folder is not None:
            self.path = folder / ("bad_samples.jsonl" if rank == 0 else f"bad_samples.rank{rank}.jsonl")
            if self.path.exists():  # written before a restart
                self._load(self.path)

    def _load(self, path: Path) -> None:
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                self._count(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error!r}); remove it, it is written again") from None

    def _count(self, line: dict) -> None:
        self._listed.add(line["index"])
        self.reasons[line["reason"]] += 1

    def add(self, *, drawn: int, found: Sequence[Found]) -> None:
        """Counts samples.

        Args:
            drawn: Number of samples that were read, good and bad ones.
            found: The bad ones among them.

        Raises:
            DirtyData: More samples are damaged than accepted.
        """
        self.drawn += drawn
        for bad in found:
            self.damaged += not bad.filtered
            if bad.index not in self._listed:
                self._list(bad)
        if self.damaged > self.max_share * max(self.drawn, MIN_DRAWN):
            raise DirtyData(
                f"{self.damaged} of {self.drawn} samples cannot be used ({self.summary()}), more than "
                f"max_bad_share={self.max_share:g} accepts"
                + (f"; {self.path} lists them" if self.path else f"; the last was {found[-1].file}" if found else "")
            )

    def _list(self, bad: Found) -> None:
        line = {"index": bad.index, "file": bad.file, "reason": bad.reason, "detail": bad.detail}
        self._count(line)
        if self.path is not None:
            with writing(self.path, "run the same command again"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")
        if bad.filtered or self.damaged > LOGGED:
            return
        logger.warning("left out %s: %s%s", bad.file, bad.reason, f" ({bad.detail})" if bad.detail else "")
        if self.damaged == LOGGED:
            logger.warning("further bad samples are only counted%s", f" and listed in {self.path}" if self.path else "")

    def summary(self) -> str:
        """Returns the counts by reason, for example "12 corrupt image, 3 missing label"."""
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
