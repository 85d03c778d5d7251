"""job=data: what the data are - counts, classes, sizes, damage, throughput - and a contact sheet."""

from __future__ import annotations

import io
import itertools
import logging
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image

from pixelflow.config.build import Config
from pixelflow.data.decode import decode, size_of
from pixelflow.data.records import BadSample
from pixelflow.files import write_json
from pixelflow.reporting.figures import image_grid
from pixelflow.types import Batch

logger = logging.getLogger(__name__)

CLASS_ROWS, CLASS_COLUMNS = 10, 8
CAPTION_ROWS, CAPTION_LENGTH = 12, 90


def run(config: Config, overrides: list[str]) -> None:
    data, job = instantiate(config["data"]), config["job"]
    folder = Path(job["output"]) / data.spec.name
    facts = look(data, job["samples"]) | measure(data, config["seed"], job["batch_size"], job["batches"], folder)
    sheet = contact_sheet(facts.pop("shown"), data.class_names(), folder / "contact_sheet.png")
    write_json(folder / "data.json", facts)
    print("\n".join(f"{key:24} {_text(value)}" for key, value in facts.items()))
    print(f"contact sheet: {sheet}\nrecord: {folder / 'data.json'}")


def look(data: Any, count: int) -> dict[str, Any]:
    """Counts, and what `count` evenly spaced training samples are: their sizes, formats, classes and damage."""
    source = data.source("train")
    total = sum(source.group_sizes)
    formats: Counter[str] = Counter()
    classes: Counter[int] = Counter()
    bad: Counter[str] = Counter()
    sizes, lengths = [], []
    indices = np.linspace(0, total, min(count, total), endpoint=False).astype(int).tolist()
    for index in indices:
        try:
            record = source.read(index)
            if isinstance(record.image, bytes):
                sizes.append(size_of(record.image, max_pixels=data.spec.preprocess.max_pixels))
                formats[_format(record.image)] += 1
                lengths.append(len(record.image))
                decode(record.image, max_pixels=data.spec.preprocess.max_pixels)
            else:
                sizes.append(record.image.shape[:2])
            if data.labelled:
                if record.label is None:
                    raise BadSample("missing label")
                classes[record.label] += 1
        except BadSample as error:
            bad[error.reason] += 1
            logger.warning("%s: %s", source.where(index), error)
    facts: dict[str, Any] = {"name": data.spec.name, "training samples": total}
    if len(source.group_sizes) > 1:
        facts["shards"] = len(source.group_sizes)
    facts["looked at"] = len(indices)
    facts["cannot be used"] = dict(bad) or "none"
    if sizes:
        short = [min(size) for size in sizes]
        facts["short side"] = f"{min(short)} to {max(short)}, median {statistics.median(short):g}"
        facts["largest aspect"] = round(max(max(size) / min(size) for size in sizes), 2)
    if lengths:
        facts["formats"] = dict(formats)
        facts["kilobytes per image"] = round(sum(lengths) / len(lengths) / 1000, 1)
    if classes:
        facts["classes"] = (
            f"{len(classes)} of {data.spec.num_classes} seen, {min(classes.values())} to {max(classes.values())} each"
        )
    return facts


def measure(data: Any, seed: int, batch_size: int, batches: int, folder: Path) -> dict[str, Any]:
    """Images a second of the training loader, after its first batch; and that batch and its followers to be shown."""
    loader = data.loader(batch_size=batch_size, seed=seed, report=folder)
    sequence = iter(loader)
    shown = [next(sequence)]
    start = time.perf_counter()
    for batch in itertools.islice(sequence, batches):
        if sum(map(len, shown)) < 4 * CLASS_ROWS * CLASS_COLUMNS:
            shown.append(batch)
    seconds = time.perf_counter() - start
    facts: dict[str, Any] = {"images per second": round(batches * batch_size / seconds)}
    if hasattr(loader, "close"):
        loader.close()
        facts["workers"] = loader.reading.workers
        facts["megabytes kept ready"] = round(loader.buffer_bytes / 1e6, 1)
    return facts | {"shown": shown}


def contact_sheet(batches: list[Batch], class_names: Any, path: Path) -> Path:
    """A row of images for each of the first classes, or an image and its caption in each row."""
    x = torch.cat([batch.x for batch in batches]).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    condition = type(batches[0].condition).cat([batch.condition for batch in batches])
    if condition.caption is not None:
        rows = [text[:CAPTION_LENGTH] for text in condition.caption[:CAPTION_ROWS]]
        return image_grid(x[: len(rows)], path, columns=1, row_labels=rows)
    images, labels = [], []
    for label in condition.class_label.unique().tolist()[:CLASS_ROWS]:
        row = x[condition.class_label == label][:CLASS_COLUMNS]
        blank = torch.full((CLASS_COLUMNS - len(row), *x.shape[1:]), 255, dtype=torch.uint8)
        images.append(torch.cat([row, blank]))
        labels.append(f"{label} {class_names[label]}" if label < len(class_names) else str(label))
    return image_grid(torch.cat(images), path, columns=CLASS_COLUMNS, row_labels=labels)


def _format(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return f"{image.format} {image.mode}"


def _text(value: Any) -> str:
    return ", ".join(f"{count} {what}" for what, count in value.items()) if isinstance(value, dict) else str(value)
