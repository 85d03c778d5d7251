"""Describes a set of training images, wherever they lie, without decoding them, and compares two such descriptions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pixelflow.data.images import DataSource
from pixelflow.data.records import BadSample, Source

FINGERPRINTED = 64
"""Number of records that identify the content."""
SHOWN = 3
"""Number of classes that a message names."""


def fingerprint(data: DataSource) -> dict[str, Any]:
    """Describes the training images of a data source. Moving them to another folder does not change the result.

    Args:
        data: The data source. Hashes of files come from the method `hashes` of its source of records; for a source
            without it, a few records are read.

    Returns:
        Plain values: the number of `images`, the names of the `classes` if they are known, and hashes such as that of
        the file `names`.

    Raises:
        UserError: There are no images, or they do not fit the options.
    """
    source, classes = data.source("train"), [*data.class_names()]
    total = int(sum(source.group_sizes))
    hashes = getattr(source, "hashes", lambda: {"contents": content_hash(source, total)})
    return {"images": total, **({"classes": classes} if classes else {}), **hashes()}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Compares two fingerprints in what both of them hold.

    Args:
        before: The earlier fingerprint.
        now: The present one.

    Returns:
        A text that says what differs; None if nothing does.
    """
    differ = [key for key in now if key in before and before[key] != now[key]]
    if not differ:
        return None
    counts = [f"{now['images']:,} images instead of {before['images']:,}"] if "images" in differ else []
    classes = [f"{_named(now['classes'])} instead of {_named(before['classes'])}"] if "classes" in differ else []
    hashes = " and ".join(key for key in differ if key not in ("images", "classes"))
    return ", ".join([*counts, *classes] or [f"the {hashes} of the images differ"])


def content_hash(source: Source, total: int) -> str:
    """Returns a hash of some records, which distinguishes data of equal name and size.

    Args:
        source: The records.
        total: Their number.
    """
    digest = hashlib.sha256()
    for index in np.linspace(0, total - 1, min(FINGERPRINTED, total)).astype(int).tolist():
        try:
            record = source.read(index)
            image = record.image if isinstance(record.image, bytes) else record.image.tobytes()
            digest.update(hashlib.sha256(image).digest() + repr((record.label, sorted(record.captions))).encode())
        except BadSample as bad:
            digest.update(bad.reason.encode())
    return digest.hexdigest()[:16]


def digest(lines: Iterable[str]) -> str:
    """Returns a hash of lines of text."""
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _named(classes: list[str]) -> str:
    """Returns the number of classes and the first of their names."""
    more = ", ..." if len(classes) > SHOWN else ""
    return f"{len(classes)} classes ({', '.join(classes[:SHOWN])}{more})"
