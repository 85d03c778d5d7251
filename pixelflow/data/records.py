"""The records that a source of images returns, and the exception for a sample that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Record:
    """One sample as it is stored.

    Args:
        key: Name of the sample in its source.
        image: The encoded file, or finished pixels (R, R, C) uint8 that need no crop.
        label: Class, or None if the sample has none.
        captions: Texts by name, for example {"txt": "a red circle"}.
        embedding: Precomputed text tokens (L, D), or None.
    """

    key: str
    image: bytes | np.ndarray
    label: int | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    embedding: np.ndarray | None = None


class BadSample(Exception):
    """A sample that cannot be used.

    Args:
        reason: One of a few fixed phrases, by which bad samples are counted.
        detail: What was found.
        filtered: Whether the sample was left out on purpose (too small, too long) and is not damaged.
    """

    def __init__(self, reason: str, detail: str = "", *, filtered: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.filtered = reason, detail, filtered


class Source(Protocol):
    """Random access to the records of one split."""

    @property
    def group_sizes(self) -> Sequence[int]:
        """Number of samples in each shard; a single entry for data without shards."""
        ...

    def read(self, index: int) -> Record:
        """Returns the record of a sample.

        Raises:
            BadSample: The sample cannot be used; another one takes its place.
            OSError: The storage failed.
        """
        ...

    def where(self, index: int) -> str:
        """Returns the file of a sample for messages, without reading anything."""
        ...
