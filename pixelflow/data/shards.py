"""Tar shards in the format of webdataset, with random access to their samples.

webdataset reads shards from front to back, and each worker reads other shards, so the samples of a rank depend on the
number of workers. Here the naming rules are those of webdataset, but members are read at their position in the file: a
shard is listed once (positions and sizes, kept in the cache folder), and a shard behind a URL is fetched once into a
cache of bounded size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import fsspec
import numpy as np
from webdataset.tariterators import base_plus_ext

from pixelflow.data.fingerprint import digest
from pixelflow.data.npy import read_npy
from pixelflow.data.records import BadSample, Record
from pixelflow.data.workers import report_alive
from pixelflow.errors import UserError, WorkFailed
from pixelflow.files import InUse, locked, writing, written_aside

logger = logging.getLogger(__name__)
T = TypeVar("T")

FIELDS = {
    "jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "cls": 1, "json": 2, "txt": 3, "caption": 3, "embedding.npy": 4,
}  # fmt: skip
"""Column of a table by a member's extension: image, label, json, text, embedding."""
IMAGE, LABEL, JSON, TEXT, EMBEDDING = range(5)
ABSENT = -1
OPEN_FILES = 128
CHUNK = 1 << 22
FIRST_WAIT = 0.5
"""Seconds before the second attempt; every further wait is twice as long."""
CONTINUE = "run the same command again, or choose another cache_dir"


class ShardError(WorkFailed):
    """A shard could not be read in several attempts."""


def retried(work: Callable[[], T], what: str, retries: int) -> T:
    """Returns `work()`, repeated with growing waits while it raises OSError.

    Args:
        work: The function to call.
        what: Path or URL that it reads. For a URL every exception counts, because file systems differ in what they
            raise.
        retries: Number of further attempts.

    Raises:
        ShardError: No attempt succeeded; the message names `what`.
    """
    for attempt in range(retries + 1):
        report_alive()
        try:
            return work()
        except (UserError, WorkFailed):
            raise
        except Exception as error:
            if not isinstance(error, OSError) and "://" not in what:
                raise
            if attempt == retries:
                raise ShardError(f"{what} cannot be read, tried {attempt + 1} times: {error or repr(error)}") from None
            pause = FIRST_WAIT * 2**attempt
            logger.warning("%s: %s; trying again in %.1f s", what, error, pause)
            time.sleep(pause)
    raise AssertionError


def scan(path: Path) -> np.ndarray:
    """Lists the members of a tar archive.

    Returns:
        (samples, fields, 2) int64: position and size in bytes of each member; ABSENT where a sample lacks it.

    Raises:
        UserError: The file is not a complete tar archive.
    """
    rows: list[np.ndarray] = []
    key = None
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                if not 0 < archive.offset <= size:  # the position of the next member
                    raise tarfile.ReadError(f"{member.name!r} states {member.size} bytes")
                if number % 1000 == 0:
                    report_alive()
                base, extension = base_plus_ext(member.name)
                # A sparse member has fewer bytes than its size says.
                if not member.isfile() or member.issparse() or base is None or base.rpartition("/")[2].startswith("__"):
                    continue
                if base != key:
                    key = base
                    rows.append(np.full((5, 2), ABSENT, dtype=np.int64))
                column = FIELDS.get(extension.lower())
                if column is not None:
                    rows[-1][column] = member.offset_data, member.size
            end = archive.offset
    except (tarfile.TarError, EOFError, ValueError, KeyError, IndexError) as error:  # damaged headers raise all of them
        raise UserError(f"{path} is not a whole tar archive ({error}); fetch it again or leave it out") from None
    with open(path, "rb") as stream:
        stream.seek(end)
        end_mark = stream.read(tarfile.BLOCKSIZE)
    if end_mark != bytes(tarfile.BLOCKSIZE):  # tarfile accepts an archive without it
        raise UserError(f"{path} is cut short; fetch it again or leave it out")
    return np.stack(rows) if rows else np.empty((0, 5, 2), dtype=np.int64)


class ShardStore:
    """Provides shards as local files, and tables of their members.

    Args:
        cache: Folder for fetched shards and for tables.
        cache_bytes: Limit of the fetched shards; the least recently used ones are removed first.
        retries: Number of further attempts to read a shard.
    """

    def __init__(self, *, cache: Path, cache_bytes: float, retries: int) -> None:
        self.cache, self.cache_bytes, self.retries = cache, cache_bytes, retries
        self._tables: dict[str, np.ndarray] = {}
        self._files: OrderedDict[str, int] = OrderedDict()

    def table(self, url: str) -> np.ndarray:
        """Returns the table of a shard, which is made once per machine and mapped from the cache folder."""
        if url not in self._tables:
            self._tables[url] = retried(lambda: self._table(url), url, self.retries)
        return self._tables[url]

    def _table(self, url: str) -> np.ndarray:
        path = self.local(url)
        stat = path.stat()
        name = _digest(f"{url} {stat.st_size} {stat.st_mtime_ns if path == Path(url) else ''}")
        saved = self.cache / "tables" / f"{name}.npy"
        if not saved.exists():
            rows = scan(path)
            with writing(saved, CONTINUE), written_aside(saved) as aside, open(aside, "wb") as stream:
                np.save(stream, rows)
        return np.load(saved, mmap_mode="r", allow_pickle=False)

    def read(self, url: str, begin: int, size: int) -> bytes:
        """Returns `size` bytes of a shard from position `begin`; raises ShardError if that fails repeatedly."""
        if url in self._files:
            try:
                return self._pread(url, begin, size)
            except OSError:
                pass
        return retried(lambda: self._pread(url, begin, size), url, self.retries)

    def _pread(self, url: str, begin: int, size: int) -> bytes:
        if url not in self._files:
            while len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[url] = os.open(self.local(url), os.O_RDONLY)
        self._files.move_to_end(url)
        try:
            data = os.pread(self._files[url], size, begin)
        except OSError:
            os.close(self._files.pop(url))  # the next attempt opens it anew: a network file system may have recovered
            raise
        if len(data) != size:
            raise OSError(f"ends before byte {begin + size}")
        return data

    def local(self, url: str) -> Path:
        """Returns the path of the shard, which is fetched first if it is behind a URL."""
        if "://" not in url:
            return Path(url)
        folder = self.cache / "shards"
        path = folder / f"{_digest(url)}.tar"
        if path.exists():
            os.utime(path)
            return path
        with writing(folder, CONTINUE):
            folder.mkdir(parents=True, exist_ok=True)
        while not path.exists():
            try:
                with locked(folder / f"{path.stem}.lock"):
                    if not path.exists():
                        self._fetch(url, path)
            except InUse:  # another worker fetches it
                report_alive()
                time.sleep(0.1)
        self._evict(keep=path)
        return path

    def _fetch(self, url: str, path: Path) -> None:
        with written_aside(path) as aside, fsspec.open(url, "rb") as source, open(aside, "wb") as target:
            while chunk := source.read(CHUNK):
                with writing(path, CONTINUE):
                    target.write(chunk)
                report_alive()

    def _evict(self, keep: Path) -> None:
        there = []
        for path in (self.cache / "shards").glob("*.tar"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            there.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in there)
        for _, size, path in sorted(there):
            if total <= self.cache_bytes:
                return
            if path != keep:  # processes that have it open can still read it
                path.unlink(missing_ok=True)
                total -= size


class ShardSource:
    """The samples of tar shards.

    Args:
        urls: Paths or URLs of the shards.
        store: Access to the shards.
        counts: Number of samples in each shard; None lists all shards, and fetches those behind a URL.
        texts: Whether captions and embeddings are read.
    """

    def __init__(
        self, urls: Sequence[str], store: ShardStore, counts: Sequence[int] | None = None, *, texts: bool = True
    ) -> None:
        self.urls, self.store, self.texts = list(urls), store, texts
        self.group_sizes = list(counts) if counts is not None else [len(store.table(url)) for url in urls]
        self._ends = np.cumsum(self.group_sizes)

    def hashes(self) -> dict[str, str]:
        """Returns hashes of the names and numbers of samples of the shards, and of the sizes of local ones."""
        names = [url.rpartition("/")[2] for url in self.urls]
        found = {"names": digest(f"{name} {count}" for name, count in zip(names, self.group_sizes, strict=True))}
        if not any("://" in url for url in self.urls):
            found["sizes"] = digest(str(Path(url).stat().st_size) for url in self.urls)
        return found

    def place(self, index: int) -> tuple[str, int]:
        """Returns the shard of a sample and the row in it."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return self.urls[shard], index - int(self._ends[shard] - self.group_sizes[shard])

    def where(self, index: int) -> str:
        """Returns the shard and the row of a sample."""
        url, row = self.place(index)
        return f"{url} sample {row}"

    def read(self, index: int) -> Record:
        """Returns a sample; see `Source.read`."""
        url, row = self.place(index)
        table = self.store.table(url)
        if row >= len(table):
            raise UserError(f"{url} has {len(table)} samples, but its index says at least {row + 1}; copy it again")

        def member(column: int) -> bytes | None:
            begin, size = table[row, column].tolist()
            return None if begin == ABSENT else self.store.read(url, begin, size)

        image = member(IMAGE)
        if image is None:
            raise BadSample("missing image")
        label, text = member(LABEL), member(TEXT) if self.texts else None
        more = _json(member(JSON)) if self.texts or label is None else {}
        captions = {key: value for key, value in more.items() if isinstance(value, str)}
        if text is not None:
            captions["txt"] = text.decode("utf-8", "replace")
        return Record(
            key=f"{url.rpartition('/')[2].removesuffix('.tar')}/{row:06}",
            image=image,
            label=_label(label, more),
            captions=captions,
            embedding=_embedding(member(EMBEDDING)) if self.texts else None,
        )


def _label(content: bytes | None, more: dict) -> int | None:
    if content is None:
        label = more.get("label")
        return label if isinstance(label, int) else None
    try:
        return int(content)
    except ValueError:
        raise BadSample("missing label", f"cls holds {content[:40]!r}") from None


def _json(content: bytes | None) -> dict:
    if not content:
        return {}
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSample("damaged json", str(error)) from None
    return value if isinstance(value, dict) else {}


def _embedding(content: bytes | None) -> np.ndarray | None:
    if content is None:
        return None
    try:
        return read_npy(content)
    except ValueError as error:
        raise BadSample("damaged embedding", str(error)) from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
