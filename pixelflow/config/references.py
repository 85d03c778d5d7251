"""The reference that a config names: a split of the data, images on disk, or stored statistics; computed once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor

from pixelflow.assets import ASSETS
from pixelflow.config.build import Config, assets_root
from pixelflow.data.image_files import ImageFiles, open_images
from pixelflow.metrics.features import DigitsFeatures, FeatureExtractor
from pixelflow.metrics.reference import KEPT, Reference, read_statistics
from pixelflow.progress import Progress

logger = logging.getLogger(__name__)

SPLITS = ("train", "held_out")
BATCH = 250


def reference_path(config: Config) -> Path | None:
    """Where the reference lies, or None for a split of the data. Raises ValueError for a name that means nothing."""
    name = config["metrics"]["reference"]
    if name in SPLITS:
        return None
    for path in (Path(name).expanduser(), assets_root(config) / name):
        if path.exists():
            return path
    if name in ASSETS:
        return assets_root(config) / name
    known = ", ".join(file for file in ASSETS if file.endswith(".npz"))
    raise ValueError(
        f"metrics.reference={name} is no split (train, held_out), no file or folder here or in assets.root, and none "
        f"of the known references ({known})"
    )


def load_reference(config: Config, extractor: FeatureExtractor) -> Reference:
    """With what `extractor` sees of it; kept in `<assets.root>/references` and found there the next time.

    Raises ValueError where it does not fit the extractor, or where it cannot be read.
    """
    path = reference_path(config)
    if path is None:
        return _of_data(config, extractor)
    stored = read_statistics(path) if path.suffix == ".npz" else None
    if stored is not None and (stored.extractor == extractor.name or not _has_images(path)):
        stored.check(extractor)
        if stored.pool is not None or not _has_images(path):
            return stored
        return stored.with_images_of(_of_files(config, extractor, open_images(path)))
    return _of_files(config, extractor, open_images(path))


def _has_images(path: Path) -> bool:
    try:
        open_images(path)
    except ValueError:
        return False
    return True


def _of_data(config: Config, extractor: FeatureExtractor) -> Reference:
    data, split = instantiate(config["data"]), config["metrics"]["reference"]
    images, _ = data.images(split)
    name = f"{data.spec.name} {split}, {data.spec.image_size} px, {len(images)} images"

    def compute(content: str) -> Reference:
        batches: Any = images.split(BATCH)
        if not isinstance(extractor, DigitsFeatures):
            batches = _told(batches, len(images), extractor)
        return Reference.from_images(extractor, batches, name=name, total=len(images), content=content)

    content = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    if isinstance(extractor, DigitsFeatures):  # computing takes no longer than reading
        return compute(content)
    return _kept(config, extractor, content, compute)


def _of_files(config: Config, extractor: FeatureExtractor, files: ImageFiles) -> Reference:
    name = f"{files.path.name}, {files.side()} px, {files.count} images"

    def compute(content: str) -> Reference:
        ids = range(files.count)
        batches = (files.read(ids[start : start + BATCH]) for start in range(0, files.count, BATCH))
        return Reference.from_images(
            extractor, _told(batches, files.count, extractor), name=name, total=files.count, content=content
        )

    return _kept(config, extractor, _content(assets_root(config), files), compute)


def _kept(config: Config, extractor: FeatureExtractor, content: str, compute: Any) -> Reference:
    """From the folder of references, or computed and put there. The key: images, network, weights, preprocessing."""
    facts = f"{content} {extractor.fingerprint} {extractor.preprocessing} {KEPT}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:24]
    path = assets_root(config) / "references" / f"{extractor.name}-{key}.npz"
    if path.exists():
        try:
            found = read_statistics(path)
        except ValueError:
            found = None
        if found is not None and found.pool is not None:
            found.check(extractor)
            return found
        logger.warning("%s is damaged and made anew", path)
    made = compute(content)
    try:
        made.save(path)
        logger.info("kept the reference's features in %s", path)
    except OSError as error:  # a read-only folder of assets is no reason to stop
        logger.warning("the reference's features cannot be kept in %s: %s", path, error)
    return made


def _content(root: Path, files: ImageFiles) -> str:
    """The hash of the images' bytes; what was hashed before and has not changed since is not read again."""
    path, listing = root / "references" / "hashes.json", files.listing()
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if listing not in known:
        known[listing] = files.content()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            aside.write_text(json.dumps(known, indent=1), encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            logger.warning("%s cannot be written: %s", path, error)
    return known[listing]


def _told(batches: Any, total: int, extractor: FeatureExtractor) -> Iterator[Tensor]:
    progress = Progress(total=total, unit="image")
    try:
        for batch in batches:
            yield batch
            progress.advance(len(batch), images=len(batch))
            progress.show(f"reference, {extractor.name}")
    finally:
        progress.close()
