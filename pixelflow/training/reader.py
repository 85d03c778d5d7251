"""Reads the files of checkpoints, which anybody may have made: everything is checked before it is used.

A file that is malformed in any way raises `CheckpointError`, whose message names the file and what is wrong with it.
Nothing in a checkpoint is ever executed, and only regular files inside its folder are opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pixelflow.errors import UserError

LARGEST_TEXT = 16 * 2**20
"""Largest size of a `state.json` and of the header of a tensor file, in bytes."""

DEEPEST = 32
"""Largest depth of lists and mappings inside each other."""

LARGEST_STEP = 10**12
"""Largest number of training steps."""

LARGEST_SIZE = 2**48
"""Largest number of elements of a tensor, where a dimension of size 0 counts as 1."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\.safetensors")
PART = re.compile(r"\.\d+-of-\d+$")

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The types of numbers that a checkpoint may hold, by their names in safetensors files."""


class CheckpointError(UserError):
    """A checkpoint is missing or damaged, or belongs to something else. The message names the file and the remedy."""


@dataclass(frozen=True)
class TensorInfo:
    """Type and shape of a tensor in a file.

    Args:
        dtype: The type of its numbers.
        shape: Its shape.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StoredState:
    """The verified content of a `state.json`.

    Args:
        path: Folder of the checkpoint.
        step: Number of optimizer steps taken.
        files: Size in bytes and SHA-256 of the tensor files by name.
        values: All other values, and the step.
    """

    path: Path
    step: int
    files: dict[str, tuple[int, str]]
    values: dict[str, Any]

    @property
    def stems(self) -> list[str]:
        """The file stems, such as "model" and "ema"."""
        return sorted({stem_of(name) for name in self.files})

    @property
    def config(self) -> dict[str, Any]:
        """The stored config. Raises CheckpointError if there is none."""
        config = self.values.get("config")
        if not isinstance(config, dict):
            raise unusable(self.path / "state.json", "holds no config")
        return config

    def names(self, stems: Iterable[str] | None) -> list[str]:
        """Returns the names of the files with these stems; None for all."""
        return [name for name in self.files if stems is None or stem_of(name) in stems]

    def headers(self, stems: Iterable[str]) -> dict[str, TensorInfo]:
        """Returns type and shape of the tensors with these stems, without reading the tensors."""
        found: dict[str, TensorInfo] = {}
        for name in self.names(stems):
            with _open(self.path, name) as stream:
                _add(found, self._header(name, stream), self.path / name)
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Reads the tensors of a file after the file has been verified."""
        file = self.path / name
        with _open(self.path, name) as stream:
            self._header(name, stream)
            if hashlib.file_digest(stream, "sha256").hexdigest() != self.files[name][1]:
                raise unusable(file, "is damaged (checksum differs)")
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise unusable(file, f"cannot be read: {error}") from None

    def _header(self, name: str, stream: BufferedReader) -> dict[str, TensorInfo]:
        """Reads a header and rewinds the stream."""
        file, expected = self.path / name, self.files[name][0]
        size = os.fstat(stream.fileno()).st_size
        if size != expected:
            raise unusable(file, f"has {size} bytes instead of {expected}: it is truncated or was changed")
        header = _header(file, stream, size)
        stream.seek(0)
        return header


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Args:
        path: Its folder.
        step: Number of optimizer steps taken.
        tensors: Tensors by file stem ("model", "ema", "optimizer", ...), then by name.
        state: Plain JSON values.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def load_checkpoint(path: Path, stems: tuple[str, ...] | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Args:
        path: Its folder.
        stems: File stems to read, such as ("ema",); None for all.

    Raises:
        CheckpointError: A file is missing or malformed, or differs from its checksum; the message names it.
    """
    stored = read_state(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in stored.names(stems):
        _add(tensors.setdefault(stem_of(name), {}), stored.tensors(name), stored.path / name)
    return Checkpoint(stored.path, stored.step, tensors, stored.values)


def read_state(path: str | Path) -> StoredState:
    """Reads and verifies the `state.json` of a checkpoint.

    Args:
        path: The folder of the checkpoint.

    Raises:
        CheckpointError: The folder is no checkpoint, or the file is malformed or differs from its checksum.
    """
    path = Path(path)
    file = path / "state.json"
    try:
        with _open(path, file.name) as stream:
            text = stream.read(LARGEST_TEXT + 1)
    except _Missing:
        raise CheckpointError(f"{path} is not a checkpoint: it has no state.json") from None
    values = _mapping(file, text)
    if values.pop("checksum", None) != checksum(values):
        raise unusable(file, "is damaged (checksum differs)")
    step, files = values.get("step"), values.pop("files", None)
    if not isinstance(step, int) or not is_count(step) or step > LARGEST_STEP:
        raise unusable(file, f"is damaged: step={show(step)} must be a whole number from 0 to {LARGEST_STEP:,}")
    if not isinstance(files, dict):
        raise unusable(file, f"is damaged: files={show(files)} must be a mapping of names to sizes and checksums")
    for name, about in files.items():
        if not FILE_NAME.fullmatch(name):
            raise unusable(file, f"is damaged: {show(name)} is not the name of a tensor file")
        if not (isinstance(about, dict) and is_count(about.get("bytes")) and isinstance(about.get("sha256"), str)):
            raise unusable(file, f"is damaged: files[{name}]={show(about)} must hold bytes and sha256")
    return StoredState(path, step, {name: (about["bytes"], about["sha256"]) for name, about in files.items()}, values)


def checksum(state: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of JSON values, whatever the layout of their file."""
    return hashlib.sha256(json.dumps(state, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def stem_of(name: str) -> str:
    """Returns the stem of a tensor file: "model" of both model.safetensors and model.0-of-2.safetensors."""
    return PART.sub("", name.removesuffix(".safetensors"))


def is_count(value: Any) -> bool:
    """Returns whether a value is a whole number, 0 or more."""
    return type(value) is int and value >= 0


_short = reprlib.Repr()
_short.maxstring = 100


def show(value: Any) -> str:
    """Returns a short text for a message, in which control characters are escaped."""
    return _short.repr(value)


def unusable(file: Path, what: str) -> CheckpointError:
    """Returns the error about a file of a checkpoint."""
    return CheckpointError(f"{file} {what}; use another checkpoint in {file.parent.parent}")


class _Missing(CheckpointError):
    """The file does not exist."""


@contextmanager
def _open(folder: Path, name: str) -> Iterator[BufferedReader]:
    """Opens a regular file inside a folder, but no pipe or device, which could block, and no link that leaves it."""
    file = folder / name
    try:
        inside = file.resolve(strict=True)
        if inside.parent != folder.resolve():
            raise unusable(file, "is a link to a place outside of the checkpoint")
        # A pipe without a writer would block without O_NONBLOCK.
        with os.fdopen(os.open(inside, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise unusable(file, "is not a regular file")
            yield stream
    except (FileNotFoundError, NotADirectoryError):
        raise _Missing(str(unusable(file, "is missing"))) from None
    except IsADirectoryError:
        raise unusable(file, "is not a regular file") from None
    except OSError as error:
        raise unusable(file, f"cannot be read: {error.strerror}") from None
    except RuntimeError:  # before Python 3.13 `resolve` raises it
        raise unusable(file, "cannot be read: it is a link to itself") from None


def _mapping(file: Path, text: bytes) -> dict[str, Any]:
    """Parses JSON that must be a mapping of plain, finite values."""
    if len(text) > LARGEST_TEXT:
        raise unusable(file, f"is larger than {LARGEST_TEXT // 2**20} MiB")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
    except ValueError as error:
        raise unusable(file, f"cannot be read: {error}") from None
    except RecursionError:
        raise unusable(file, f"cannot be read: it is nested more than {DEEPEST} deep") from None
    if not isinstance(value, dict):
        raise unusable(file, f"is damaged: it holds a {type(value).__name__} instead of a mapping")
    if problem := _problem(value):
        raise unusable(file, f"is damaged: {problem}")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {show(next(n for n in names if names.count(n) > 1))} appears twice")
    return found


def _problem(value: Any) -> str | None:
    """What makes JSON values unfit for use; None if they are fit."""
    level = [value]
    for _ in range(DEEPEST):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper += [*item, *item.values()]
            elif isinstance(item, list):
                deeper += item
            elif isinstance(item, float) and not math.isfinite(item):
                return f"it holds the number {item}, which is not finite"
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                return f"it holds the number {show(item)}, which has more than 64 bits"
            elif isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
                return f"it holds {show(item)}, which is not text"
        level = deeper
        if not level:
            return None
    return f"it is nested more than {DEEPEST} deep"


def _header(file: Path, stream: BufferedReader, size: int) -> dict[str, TensorInfo]:
    """Reads the header of a safetensors file, and checks that its tensors fill the file without gap or overlap."""
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > size - 8:
        raise unusable(file, "is no safetensors file: its header is longer than the file")
    if length > LARGEST_TEXT:
        raise unusable(file, f"is damaged: its header is larger than {LARGEST_TEXT // 2**20} MiB")
    header = _mapping(file, stream.read(length))
    header.pop("__metadata__", None)
    found: dict[str, TensorInfo] = {}
    places: list[tuple[int, int, str]] = []
    for name, about in header.items():
        info, place = _entry(about)
        if info is None:
            raise unusable(file, f"is damaged: the entry of the tensor {show(name)} is {show(about)}")
        found[name] = info
        places.append((*place, name))
    end = 0
    for start, stop, name in sorted(places):
        if start != end:
            raise unusable(file, f"is damaged: the tensor {show(name)} begins at byte {start} instead of {end}")
        end = stop
    if end != size - 8 - length:
        raise unusable(file, f"is damaged: its tensors have {end} bytes, but it holds {size - 8 - length}")
    return found


def _entry(about: Any) -> tuple[TensorInfo | None, tuple[int, int]]:
    """Returns the tensor that an entry of a header describes, or None, and its first and last byte."""
    nothing = None, (0, 0)
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        return nothing
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return nothing
    if not isinstance(shape, list) or len(shape) > 16 or not all(is_count(size) for size in shape):
        return nothing
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(place) for place in offsets):
        return nothing
    info, (start, stop) = TensorInfo(DTYPES[dtype], tuple(shape)), offsets
    if math.prod(max(size, 1) for size in shape) > LARGEST_SIZE or stop - start != info.elements * info.dtype.itemsize:
        return nothing
    return info, (start, stop)


def _add(found: dict[str, Any], more: Mapping[str, Any], file: Path) -> None:
    """Adds the tensors of one more file with the same stem."""
    if both := sorted(found.keys() & more.keys()):
        raise unusable(file, f"is damaged: another file also holds the tensor {show(both[0])}")
    found.update(more)
