"""Tar shards: local, or behind any URL that fsspec opens; prepared by `job=prepare`, or of any origin."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
from webdataset.shardlists import expand_urls

from pixelflow.data.images import ImageData, Split, require_root
from pixelflow.data.loader import Reading
from pixelflow.data.records import Source
from pixelflow.data.shards import ShardSource, ShardStore, retried
from pixelflow.data.transforms import Preprocess

logger = logging.getLogger(__name__)

CACHE = "~/.cache/pixelflow"
INDEX = "index.json"


@dataclass(frozen=True)
class ShardList:
    """urls: in order. index: what `job=prepare` wrote beside them, or None."""

    urls: tuple[str, ...]
    index: dict | None

    @property
    def counts(self) -> list[int] | None:
        return None if self.index is None else [shard["samples"] for shard in self.index["shards"]]


def list_shards(root: str, retries: int) -> ShardList:
    """root: a folder, a pattern like `s3://bucket/train-{000000..000146}.tar`, or the URL of a folder.

    Raises ValueError if there are no shards, or if one is missing or has another size than the index says.
    """
    if root.endswith(".tar"):
        return _existing(ShardList(tuple(expand_urls(root)), None))
    if "://" in root:
        system, path = fsspec.core.url_to_fs(root)
        index = retried(lambda: _remote_index(system, f"{path}/{INDEX}"), root, retries)
        names = index and [f"{path}/{shard['name']}" for shard in index["shards"]]
        found = names or sorted(retried(lambda: system.glob(f"{path}/*.tar"), root, retries))
        return _some(ShardList(tuple(system.unstrip_protocol(name) for name in found), index), root)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"root={root} is not a folder of shards")
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return _existing(ShardList(tuple(str(folder / shard["name"]) for shard in index["shards"]), index))
    if (folder / "prepare.json").exists():
        raise ValueError(f"root={root}: job=prepare has not finished there; run it again")
    return _some(ShardList(tuple(str(path) for path in sorted(folder.glob("*.tar"))), None), root)


def _remote_index(system: fsspec.AbstractFileSystem, path: str) -> dict | None:
    return json.loads(system.cat_file(path)) if system.exists(path) else None


def _some(shards: ShardList, root: str) -> ShardList:
    if not shards.urls:
        raise ValueError(f"root={root} holds no .tar files")
    return shards


def _existing(shards: ShardList) -> ShardList:
    sizes = [shard["bytes"] for shard in shards.index["shards"]] if shards.index else [None] * len(shards.urls)
    for url, size in zip(shards.urls, sizes, strict=True):
        if "://" in url:
            continue
        if not Path(url).exists():
            raise ValueError(f"{url} does not exist")
        if size is not None and Path(url).stat().st_size != size:
            raise ValueError(f"{url} has not the {size} bytes that {INDEX} says: copy it again, or prepare it again")
    return shards


class WebDataset(ImageData):
    """root, held_out: see `list_shards`. Members `jpg/png/webp` with `cls`, or `json` with "label".

    captions: weights of the texts to choose from, "txt" or a name in `json`; empty for none. embeddings: deliver the
    texts that `job=prepare` has encoded. shuffle_shards: how many shards are mixed at a time, 0 for all.
    cache_dir, cache_gb: where shards behind a URL are kept, and how much of them. It must hold shuffle_shards shards,
    or they are fetched again and again.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        held_out: str | None = None,
        image_size: int = 256,
        channels: int = 3,
        num_classes: int = 1000,
        name: str = "webdataset",
        captions: dict[str, float] | None = None,
        embeddings: bool = False,
        shuffle_shards: int = 64,
        cache_dir: str = CACHE,
        cache_gb: float = 100.0,
        preprocess: Preprocess | None = None,
        reading: Reading | None = None,
        reference_images: int = 5000,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, num_classes=num_classes, name=name,
            preprocess=preprocess or Preprocess(), reading=reading or Reading(), reference_images=reference_images,
        )  # fmt: skip
        if shuffle_shards < 0:
            raise ValueError(f"shuffle_shards={shuffle_shards} must be 0 or more")
        if cache_gb <= 0:
            raise ValueError(f"cache_gb={cache_gb} must be above 0")
        self.root, self.held_out = root, held_out
        self.captions, self.embeddings = checked_weights(captions or {}), embeddings
        self.shuffle_shards, self.cache_dir, self.cache_gb = shuffle_shards, cache_dir, cache_gb

    def check(self) -> None:
        root = self._root("train")
        if "://" in root:
            return  # the network is for open()
        index = list_shards(root, retries=0).index
        classes = index["classes"] if index else []
        if self.labelled and classes and len(classes) != self.num_classes:
            raise ValueError(f"num_classes={self.num_classes}, but {root} has {len(classes)} classes")
        if self.embeddings and index is not None and not index["prepare"]["text_encoder"]:
            raise ValueError(f"embeddings=true, but {root} was prepared without job.text_encoder")

    def class_names(self) -> Sequence[str]:
        index = list_shards(self._root("train"), self.reading.retries).index
        return index["classes"] if index else ()

    def open(self, split: Split) -> Source:
        shards = list_shards(self._root(split), self.reading.retries)
        if shards.counts is None:
            logger.info("listing %d shards that have no %s", len(shards.urls), INDEX)
        cache = Path(self.cache_dir).expanduser()
        store = ShardStore(cache=cache, cache_bytes=self.cache_gb * 1e9, retries=self.reading.retries)
        texts = bool(self.captions or self.embeddings)
        source = ShardSource(shards.urls, store, shards.counts, texts=texts)
        if not sum(source.group_sizes):
            raise ValueError(f"root={self._root(split)}: the shards hold no samples")
        return source

    def _root(self, split: Split) -> str:
        if split == "train":
            return require_root(self.root, "webdataset", "FOLDER_OR_URL of .tar shards")
        if not self.held_out:
            raise ValueError("held_out is missing: metrics.reference=held_out needs data.held_out=FOLDER_OR_URL")
        return self.held_out


def checked_weights(captions: Mapping[str, float]) -> dict[str, float]:
    """Raises ValueError for weights that cannot be drawn by."""
    for name, weight in captions.items():
        if weight <= 0:
            raise ValueError(f"captions.{name}={weight} must be above 0; leave it out instead")
    return dict(captions)
