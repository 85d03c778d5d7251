"""Finds or computes the reference of a feature extractor: a split of the data, images on disk, or stored statistics.

Computed features are stored in the subfolder `references` of the assets, where later evaluations find them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from torch import Tensor

from pixelflow.assets import ASSETS
from pixelflow.data.image_files import ImageFiles, open_images
from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import write_json
from pixelflow.metrics.features import FeatureExtractor, PackagedFeatures
from pixelflow.metrics.reference import KEPT, Reference, read_statistics
from pixelflow.progress import Progress

logger = logging.getLogger(__name__)

SPLITS = ("train", "held_out")
BATCH = 250

SplitImages = Callable[[str], tuple[str, Tensor]]
"""`split -> (name of the data, images (N, C, R, R) uint8)`."""


def reference_path(name: str, assets: Path) -> Path | None:
    """Returns the path of a reference, or None for a split of the data.

    Args:
        name: "train", "held_out", a path, or the name of a file in the folder of assets.
        assets: Folder of assets. A file that can be downloaded to it need not be there yet.

    Raises:
        UserError: The name is none of these.
    """
    if name in SPLITS:
        return None
    for path in (Path(name).expanduser(), assets / name):
        if path.exists():
            return path
    if name in ASSETS:
        return assets / name
    known = ", ".join(file for file in ASSETS if file.endswith(".npz"))
    raise UserError(
        f"reference={name} is not a split (train, held_out), not a file or folder here or in {assets}, and not one of "
        f"the known references ({known})"
    )


def side_of(path: Path) -> int | None:
    """Returns the side in pixels of the images of a reference; None if it is not known without reading many files.

    Args:
        path: A path that `reference_path` has returned.
    """
    if path.name in ASSETS:
        return ASSETS[path.name].image_size
    if path.suffix != ".npz" or not path.exists() or not _has_images(path):
        return None
    return open_images(path).side()


def load_reference(name: str, extractor: FeatureExtractor, *, assets: Path, split_images: SplitImages) -> Reference:
    """Returns a reference with the features of an extractor.

    Args:
        name: See `reference_path`.
        extractor: The extractor, with its weights loaded.
        assets: Folder of assets.
        split_images: Returns the images of a split of the data. It is called only if `name` is a split.

    Raises:
        UserError: The reference cannot be read, or does not fit the extractor.
    """
    path = reference_path(name, assets)
    if path is None:
        return _of_split(name, extractor, assets, split_images)
    stored = read_statistics(path) if path.suffix == ".npz" else None
    if stored is None or (stored.extractor != extractor.name and _has_images(path)):
        return _of_files(open_images(path), extractor, assets)
    stored.check(extractor)
    if stored.pool is not None or not _has_images(path):
        return stored
    return stored.with_images_of(_of_files(open_images(path), extractor, assets))


def _has_images(path: Path) -> bool:
    try:
        open_images(path)
    except UserError:
        return False
    return True


def _of_split(split: str, extractor: FeatureExtractor, assets: Path, split_images: SplitImages) -> Reference:
    title, images = split_images(split)
    name = f"{title} {split}, {images.shape[-1]} px, {len(images)} images"
    small = isinstance(extractor, PackagedFeatures)  # computing its features takes no longer than reading them

    def compute(content: str) -> Reference:
        batches: Iterable[Tensor] = images.split(BATCH)
        if not small:
            batches = _with_progress(batches, len(images), extractor)
        return Reference.from_images(extractor, batches, name=name, total=len(images), content=content)

    content = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    return compute(content) if small else _stored(extractor, content, compute, assets)


def _of_files(files: ImageFiles, extractor: FeatureExtractor, assets: Path) -> Reference:
    name = f"{files.path.name}, {files.side()} px, {files.count} images"

    def compute(content: str) -> Reference:
        ids = range(files.count)
        batches = (files.read(ids[start : start + BATCH]) for start in range(0, files.count, BATCH))
        return Reference.from_images(
            extractor, _with_progress(batches, files.count, extractor), name=name, total=files.count, content=content
        )

    return _stored(extractor, _content(files, assets), compute, assets)


def _stored(extractor: FeatureExtractor, content: str, compute: Callable[[str], Reference], assets: Path) -> Reference:
    """Reads a reference from the folder of references, or computes it and stores it there.

    The file's name depends on the images, the network, its weights and the preprocessing.
    """
    facts = f"{content} {extractor.fingerprint} {extractor.preprocessing} {KEPT}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:24]
    path = assets / "references" / f"{extractor.name}-{key}.npz"
    if path.exists():
        try:
            found = read_statistics(path)
        except UserError:
            found = None
        if found is not None and found.pool is not None:
            found.check(extractor)
            return found
        logger.warning("%s is damaged; its features are computed again", path)
    computed = compute(content)
    try:
        computed.save(path)
        logger.info("stored the features of the reference in %s", path)
    except OSError as error:  # a read-only folder of assets is no reason to stop
        logger.warning("the features of the reference cannot be stored in %s: %s", path, error)
    return computed


def _content(files: ImageFiles, assets: Path) -> str:
    """Returns the hash of the files' contents. Files that have not changed since they were hashed are not read."""
    path, listing = assets / "references" / "hashes.json", files.listing()
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if listing not in known:
        known[listing] = files.content()
        try:
            write_json(path, known)
        except (OSError, UserError, WorkFailed) as error:
            logger.warning("the hashes of references cannot be stored: %s", error)
    return known[listing]


def _with_progress(batches: Iterable[Tensor], total: int, extractor: FeatureExtractor) -> Iterator[Tensor]:
    progress = Progress(total=total, unit="image")
    try:
        for batch in batches:
            yield batch
            progress.advance(len(batch), images=len(batch))
            progress.show(f"reference, {extractor.name}")
    finally:
        progress.close()
