"""Describes data before training: counts, sizes, formats, damage and the speed of the loader."""

from __future__ import annotations

import io
import itertools
import logging
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixelflow.data.decode import FORMATS, decode, size_of
from pixelflow.data.images import DataSource
from pixelflow.data.loader import StreamLoader
from pixelflow.data.records import BadSample, Record
from pixelflow.types import Batch

logger = logging.getLogger(__name__)


@dataclass
class _Found:
    """Properties of the samples that were read."""

    sizes: list[tuple[int, ...]] = field(default_factory=list)
    kilobytes: list[float] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    classes: Counter[int] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record, data: DataSource) -> None:
        """Counts a sample; raises BadSample if it cannot be used."""
        if isinstance(record.image, bytes):
            max_pixels = data.spec.preprocess.max_pixels
            self.sizes.append(size_of(record.image, max_pixels=max_pixels))
            self.formats[_format(record.image)] += 1
            self.kilobytes.append(len(record.image) / 1000)
            decode(record.image, max_pixels=max_pixels)
        else:
            self.sizes.append(record.image.shape[:2])
        if data.labelled:
            if record.label is None:
                raise BadSample("missing label")
            self.classes[record.label] += 1


def describe_samples(data: DataSource, count: int) -> dict[str, Any]:
    """Reads evenly spaced training samples and describe them.

    Args:
        data: The data source.
        count: Number of samples to read.

    Returns:
        Facts by name: the numbers of samples and shards, damage by reason, sizes in pixels, formats and classes.
    """
    source, found = data.source("train"), _Found()
    total = sum(source.group_sizes)
    indices = np.linspace(0, total, min(count, total), endpoint=False).astype(int).tolist()
    for index in indices:
        try:
            found.add(source.read(index), data)
        except BadSample as error:
            found.bad[error.reason] += 1
            logger.warning("%s: %s", source.where(index), error)
    facts: dict[str, Any] = {"name": data.spec.name, "training samples": total}
    if len(source.group_sizes) > 1:
        facts["shards"] = len(source.group_sizes)
    facts["looked at"] = len(indices)
    facts["cannot be used"] = dict(found.bad) or "none"
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
    return facts


def measure_loader(
    data: DataSource, *, seed: int, batch_size: int, batches: int, report: Path, kept: int
) -> tuple[dict[str, Any], list[Batch]]:
    """Measures the training loader after its first batch.

    Args:
        data: The data source.
        seed: Seed of the sequence.
        batch_size: Number of images in a batch.
        batches: Number of measured batches.
        report: Folder for the list of bad samples.
        kept: Number of images after which no further batch is returned.

    Returns:
        Facts by name, and the first batches.
    """
    loader = data.loader(batch_size=batch_size, seed=seed, report=report)
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
