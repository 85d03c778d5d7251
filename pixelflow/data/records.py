"""What a source of images hands over: one record for each sample, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Record:
    """One sample as it is stored.

    key: names it in its source. image: the encoded file, or finished pixels (R, R, C) uint8 that need no crop.
    label: class, or None if the sample has none. captions: by name, for example {"txt": "a red circle"}.
    embedding: precomputed text tokens (L, D), or None.
    """

    key: str
    image: bytes | np.ndarray
    label: int | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    embedding: np.ndarray | None = None


class BadSample(Exception):
    """A sample that cannot be used. reason: one of a few words, to be counted by; detail: what was found.

    filtered: left out on purpose (too small, too long), so no sign of damage.
    """

    def __init__(self, reason: str, detail: str = "", *, filtered: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.filtered = reason, detail, filtered


class Source(Protocol):
    """Random access to records. `group_sizes`: samples of each shard; one entry where there are no shards."""

    @property
    def group_sizes(self) -> Sequence[int]: ...

    def read(self, index: int) -> Record:
        """Raises BadSample for a sample that cannot be used, OSError if the storage fails."""
        ...

    def where(self, index: int) -> str:
        """The file of a sample, for messages; reads nothing."""
        ...
