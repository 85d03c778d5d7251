"""Tar shards: local, or behind any URL that fsspec opens; prepared by `prepare`, or of any origin."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Unpack

import fsspec
from webdataset.shardlists import expand_urls

from pixelflow.data.images import ImageData, checked_weights, folder_name, require_root
from pixelflow.data.records import Split
from pixelflow.data.shards import ShardSource, ShardStore, retried
from pixelflow.data.spec import ImageOptions
from pixelflow.errors import UserError
from pixelflow.limits import above, at_least

logger = logging.getLogger(__name__)

CACHE = "~/.cache/pixelflow"
INDEX = "index.json"


@dataclass(frozen=True)
class ShardList:
    """Shards in their order.

    Args:
        urls: Paths or URLs.
        index: The content of index.json, which `prepare` writes beside the shards, or None.
    """

    urls: tuple[str, ...]
    index: dict | None

    @property
    def counts(self) -> list[int] | None:
        """Number of samples in each shard, or None if there is no index."""
        return None if self.index is None else [shard["samples"] for shard in self.index["shards"]]


def list_shards(root: str, retries: int) -> ShardList:
    """Lists tar shards.

    Args:
        root: A folder, a pattern like `s3://bucket/train-{000000..000146}.tar`, or the URL of a folder.
        retries: Number of further attempts to list a URL.

    Raises:
        UserError: There are no shards, or one is missing or has another size than the index says.
        ShardError: The URL cannot be listed.
    """
    if root.endswith(".tar"):
        return _existing(ShardList(tuple(expand_urls(root)), None))
    if "://" in root:
        try:
            system, path = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError) as error:  # an unknown protocol, or its package is not installed
            raise UserError(f"root={root}: {error}") from None
        index = retried(lambda: _remote_index(system, f"{path}/{INDEX}"), root, retries)
        names = index and [f"{path}/{shard['name']}" for shard in index["shards"]]
        found = names or sorted(retried(lambda: system.glob(f"{path}/*.tar"), root, retries))
        return _some(ShardList(tuple(system.unstrip_protocol(name) for name in found), index), root)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"root={root} is not a folder of shards")
    if (folder / INDEX).exists():
        index = _parsed((folder / INDEX).read_bytes(), folder / INDEX)
        return _existing(ShardList(tuple(str(folder / shard["name"]) for shard in index["shards"]), index))
    if (folder / "prepare.json").exists():
        raise UserError(f"root={root}: job=prepare has not finished there; run it again")
    return _some(ShardList(tuple(str(path) for path in sorted(folder.glob("*.tar"))), None), root)


def _remote_index(system: fsspec.AbstractFileSystem, path: str) -> dict | None:
    return _parsed(system.cat_file(path), path) if system.exists(path) else None


def _parsed(content: bytes, path: object) -> dict:
    try:
        index = json.loads(content)
        for shard in index["shards"]:
            _require_shard(shard["name"], shard["samples"], shard["bytes"])
        if not isinstance(index["classes"], list):
            raise TypeError(f"classes is {index['classes']!r} and not a list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error!r}); copy it again, or prepare the shards again") from None
    return index


def _require_shard(name: str, samples: int, size: int) -> None:
    """Raises ValueError for a name that leads out of the folder of the shards, or a number that is no size."""
    if name in ("", "..") or PurePosixPath(name).name != name or "\\" in name:
        raise ValueError(f"{name!r} is not the name of a file beside the index")
    if not all(isinstance(number, int) and number >= 0 for number in (samples, size)):
        raise ValueError(f"{name!r} has {samples!r} samples and {size!r} bytes")


def _some(shards: ShardList, root: str) -> ShardList:
    if not shards.urls:
        raise UserError(f"root={root} holds no .tar files")
    return shards


def _existing(shards: ShardList) -> ShardList:
    sizes = [shard["bytes"] for shard in shards.index["shards"]] if shards.index else [None] * len(shards.urls)
    for url, size in zip(shards.urls, sizes, strict=True):
        if "://" in url:
            continue
        if not Path(url).exists():
            raise UserError(f"{url} does not exist")
        if size is not None and Path(url).stat().st_size != size:
            raise UserError(
                f"{url} does not have the {size} bytes that {INDEX} states: copy it again, or prepare it again"
            )
    return shards


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """The tar shards of both splits, and the cache for those behind a URL.

    Args:
        root: Shards of the training split; see `list_shards`.
        held_out: Shards of the held-out split, or None.
        cache_dir: Folder for tables of the shards, and for shards fetched from a URL.
        cache_gb: Limit of the fetched shards in gigabytes.
        retries: Number of further attempts to read a shard.
        texts: Whether captions and embeddings are read.

    Raises:
        ValueError: `cache_gb` is not above 0.
    """

    root: str | None
    held_out: str | None
    cache_dir: str
    cache_gb: float
    retries: int
    texts: bool

    def __post_init__(self) -> None:
        above(0, cache_gb=self.cache_gb)

    def path(self, split: Split) -> str:
        """Returns the argument that names the shards of a split; raises UserError if it was not given."""
        if split == "train":
            return require_root(self.root, "the folder or the URL of .tar shards")
        if not self.held_out:
            raise UserError("held_out is missing: give the folder or the URL of the shards of the held-out split")
        return self.held_out

    def check(self, *, num_classes: int | None, embeddings: bool) -> None:
        """Checks local shards without opening them; a URL is checked when it is opened.

        Args:
            num_classes: Number of classes that the index must have, or None for any.
            embeddings: Whether the shards must hold embeddings.

        Raises:
            UserError: Shards are missing, or they do not fit the arguments.
        """
        root = self.path("train")
        if "://" in root:
            try:
                fsspec.get_filesystem_class(root.partition("://")[0])
            except (ValueError, ImportError) as error:  # an unknown protocol, or its package is not installed
                raise UserError(f"root={root}: {error}") from None
            return
        index = list_shards(root, retries=0).index
        if index is None:
            return
        if num_classes is not None and index["classes"] and len(index["classes"]) != num_classes:
            raise UserError(f"num_classes={num_classes}, but {root} has {len(index['classes'])} classes")
        if embeddings and not index["prepare"]["text_encoder"]:
            raise UserError(f"embeddings=true, but {root} was prepared without a text encoder")

    def find_num_classes(self) -> int:
        """Returns the number of classes in the index of the training shards; raises UserError without one."""
        if classes := self.class_names():
            return len(classes)
        raise UserError(f"num_classes is not given, and {self.root} has no {INDEX} that names the classes")

    def find_image_size(self) -> int:
        """Returns the size for which job=prepare has written the training shards; raises UserError without an index."""
        index = list_shards(self.path("train"), self.retries).index or {}
        size = index.get("image_size")
        if type(size) is int and size > 0:
            return size
        raise UserError(f"image_size is not given, and {self.root} has no {INDEX} that states it")

    def class_names(self) -> Sequence[str]:
        """Returns the names of the classes from the index of the training shards, if there is one."""
        index = list_shards(self.path("train"), self.retries).index
        return index["classes"] if index else ()

    def open(self, split: Split) -> ShardSource:
        """Lists the samples of a split; raises UserError if there are none."""
        root = self.path(split)
        shards = list_shards(root, self.retries)
        if shards.counts is None:
            logger.info("listing %d shards that have no %s", len(shards.urls), INDEX)
        cache = Path(self.cache_dir).expanduser()
        store = ShardStore(cache=cache, cache_bytes=self.cache_gb * 1e9, retries=self.retries)
        source = ShardSource(shards.urls, store, shards.counts, texts=self.texts)
        if not sum(source.group_sizes):
            raise UserError(f"root={root}: the shards hold no samples")
        return source


class WebDataset(ImageData):
    """Tar shards with members `jpg`, `png` or `webp`, and `cls`, or `json` with the key "label".

    Args:
        root: Training shards: a folder, the URL of a folder, or a pattern like
            `s3://bucket/train-{000000..000146}.tar`.
        held_out: Shards of the held-out split, in the same form.
        captions: Weights of the texts to draw from, "txt" or a key of the json; empty for none.
        embeddings: Whether the precomputed text tokens of the shards are delivered.
        shuffle_shards: Number of shards that are mixed at a time; 0 for all.
        cache_dir: Folder for tables of the shards, and for shards fetched from a URL.
        cache_gb: Limit of the fetched shards in gigabytes. With room for fewer than `shuffle_shards` shards they are
            fetched repeatedly.
        **options: Shared options; see `ImageSpec`.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        held_out: str | None = None,
        captions: dict[str, float] | None = None,
        embeddings: bool = False,
        shuffle_shards: int = 64,
        cache_dir: str = CACHE,
        cache_gb: float = 100.0,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(options, name="webdataset")
        at_least(0, shuffle_shards=shuffle_shards)
        self.captions, self.embeddings, self.shuffle_shards = checked_weights(captions), embeddings, shuffle_shards
        self.shards = ShardSet(
            root=root, held_out=held_out, cache_dir=cache_dir, cache_gb=cache_gb, retries=self.spec.reading.retries,
            texts=bool(captions) or embeddings,
        )  # fmt: skip

    def check(self) -> None:
        """Raises UserError unless local shards are complete and fit the options."""
        self.shards.check(num_classes=self.spec.num_classes, embeddings=self.embeddings)

    def find_num_classes(self) -> int:
        """Returns the number of classes, if the shards have an index."""
        return self.shards.find_num_classes()

    def find_image_size(self) -> int:
        """Returns the size for which the shards were prepared, if they have an index."""
        return self.shards.find_image_size()

    def own_name(self) -> str:
        """Returns the name of the folder of the shards."""
        return folder_name(self.shards.root, self.spec.name)

    def class_names(self) -> Sequence[str]:
        """Returns the names of the classes, if the shards have an index."""
        return self.shards.class_names()

    def open(self, split: Split) -> ShardSource:
        """Lists the samples of a split; raises UserError if there are none."""
        return self.shards.open(split)
