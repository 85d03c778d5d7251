"""Describes data before training: counts, sizes, formats, damage and the speed of the loader."""

from __future__ import annotations

import io
import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixelflow.data.decode import FORMATS, decode, size_of
from pixelflow.data.dirty import Found
from pixelflow.data.images import DataSource
from pixelflow.data.loader import StreamLoader
from pixelflow.data.records import BadSample, Record
from pixelflow.types import Batch

NAMED = 10
"""Number of samples that cannot be used that the text of a report names."""


@dataclass
class _Seen:
    """Properties of the samples that were read."""

    sizes: list[tuple[int, ...]] = field(default_factory=list)
    kilobytes: list[float] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    classes: Counter[int] = field(default_factory=Counter)
    bad: list[Found] = field(default_factory=list)

    def add(self, record: Record, data: DataSource) -> None:
        """Counts a sample; raises BadSample if it cannot be used."""
        if isinstance(record.image, bytes):
            max_pixels = data.spec.preprocess.max_pixels
            decode(record.image, max_pixels=max_pixels)
            self.sizes.append(size_of(record.image, max_pixels=max_pixels))
            self.formats[_format(record.image)] += 1
            self.kilobytes.append(len(record.image) / 1000)
        else:
            self.sizes.append(record.image.shape[:2])
        if data.labelled:
            if record.label is None:
                raise BadSample("missing label")
            self.classes[record.label] += 1


def describe_samples(data: DataSource, count: int) -> tuple[dict[str, Any], list[Found]]:
    """Reads evenly spaced training samples and describes them.

    Args:
        data: The data source.
        count: Number of samples to read.

    Returns:
        Facts by name: the numbers of samples and shards, damage by reason, sizes in pixels, formats and classes; and
        the samples that cannot be used.
    """
    source, found = data.source("train"), _Seen()
    total = sum(source.group_sizes)
    indices = np.linspace(0, total, min(count, total), endpoint=False).astype(int).tolist()
    for index in indices:
        try:
            found.add(source.read(index), data)
        except BadSample as error:
            found.bad.append(Found(index, source.where(index), error.reason, error.detail, error.filtered))
        except OSError as error:
            found.bad.append(Found(index, source.where(index), "unreadable file", str(error), filtered=False))
    facts: dict[str, Any] = {"name": data.spec.name, "training samples": total}
    if len(source.group_sizes) > 1:
        facts["shards"] = len(source.group_sizes)
    facts["looked at"] = len(indices)
    facts["cannot be used"] = dict(Counter(bad.reason for bad in found.bad)) or "none"
    if found.sizes:
        short = [min(size) for size in found.sizes]
        facts["short side"] = f"{min(short)} to {max(short)}, median {statistics.median(short):g}"
        facts["largest aspect"] = round(max(max(size) / min(size) for size in found.sizes), 2)
    if found.kilobytes:
        facts["formats"] = dict(found.formats)
        facts["kilobytes per image"] = round(sum(found.kilobytes) / len(found.kilobytes), 1)
    if found.classes:
        least, most = min(found.classes.values()), max(found.classes.values())
        facts["classes"] = f"{len(found.classes)} of {data.spec.num_classes} seen, {least} to {most} each"
    return facts, found.bad


def remedy(data: DataSource, bad: Sequence[Found], *, looked_at: int, listed: Path) -> str:
    """Returns the text that names the first samples that cannot be used, and says what to do about them.

    Args:
        data: The data source.
        bad: The samples that cannot be used.
        looked_at: Number of samples that were read.
        listed: The file that lists all of them.
    """
    share, accepted = len(bad) / looked_at, data.spec.reading.max_bad_share
    lines = [f"{len(bad):,} of {looked_at:,} samples looked at cannot be used:"]
    lines += [f"  {one.file}: {one.reason}{f' ({one.detail})' if one.detail else ''}" for one in bad[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"  and {len(bad) - NAMED:,} more")
    lines.append(f"all of them: {listed}")
    if share > accepted:
        lines.append(
            f"remedy: replace or remove them. Training and job=prepare accept a share of {accepted:g}; to leave them "
            f"out instead: data.reading.max_bad_share={math.ceil(1000 * share) / 1000:g} (job.max_bad_share of prepare)"
        )
    else:
        lines.append(
            f"remedy: none is needed. Training replaces them by others, since data.reading.max_bad_share={accepted:g} "
            "accepts their share"
        )
    if looked_at < (total := sum(data.source("train").group_sizes)):
        lines.append(f"job.samples={total} looks at all")
    return "\n".join(lines)


def measure_loader(
    data: DataSource, *, seed: int, batch_size: int, batches: int, kept: int
) -> tuple[dict[str, Any], list[Batch]]:
    """Measures the training loader after its first batch.

    Args:
        data: The data source.
        seed: Seed of the sequence.
        batch_size: Number of images in a batch.
        batches: Number of measured batches.
        kept: Number of images after which no further batch is returned.

    Returns:
        Facts by name, and the first batches.
    """
    loader = data.loader(batch_size=batch_size, seed=seed)
    sequence = iter(loader)
    first = [next(sequence)]
    start = time.perf_counter()
    for batch in itertools.islice(sequence, batches):
        if sum(map(len, first)) < kept:
            first.append(batch)
    seconds = time.perf_counter() - start
    facts: dict[str, Any] = {"images per second": round(batches * batch_size / seconds)}
    if isinstance(loader, StreamLoader):
        loader.close()
        facts["workers"] = loader.reading.workers
        facts["megabytes kept ready"] = round(loader.buffer_bytes / 1e6, 1)
    return facts, first


def _format(data: bytes) -> str:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return f"{image.format} {image.mode}"
