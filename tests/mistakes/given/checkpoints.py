"""Checkpoints with a hostile config, and with damaged files."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.mistakes.given.models import Models


def trained(folder: Path, text: str, models: Models) -> Path:
    """The checkpoint of a trained model, with `KEY=VALUE` changed in its stored config if it is given."""
    return _with_config(_copied(models.trained, folder), text)


def built(folder: Path, text: str, models: Models) -> Path:
    """A checkpoint of a model that was built and not trained, changed in the same way."""
    return _with_config(_copied(models.built, folder), text)


def state(folder: Path, text: str, models: Models) -> Path:
    """A checkpoint with `KEY=VALUE` changed in state.json, whose checksum is right."""
    checkpoint = _copied(models.trained, folder)
    _edit(checkpoint, lambda content: _set(content, text))
    return checkpoint


def raw(folder: Path, text: str, models: Models) -> Path:
    """A checkpoint whose state.json is this text."""
    checkpoint = _copied(models.trained, folder)
    (checkpoint / "state.json").write_text(text, encoding="utf-8")
    return checkpoint


def weights(folder: Path, text: str, models: Models) -> Path:
    """A checkpoint whose files of weights are replaced by bytes of `DAMAGES`; size and checksum in state.json agree."""
    checkpoint = _copied(models.trained, folder)
    for file in checkpoint.glob("*.safetensors"):
        file.write_bytes(DAMAGES[text](file.read_bytes()))
    _edit(checkpoint, lambda content: _count_again(content, checkpoint))
    return checkpoint


def changed(folder: Path, text: str, models: Models) -> Path:
    """A checkpoint whose files of weights are replaced by bytes of `DAMAGES`; state.json stays as it was."""
    checkpoint = _copied(models.trained, folder)
    for file in checkpoint.glob("*.safetensors"):
        file.write_bytes(DAMAGES[text](file.read_bytes()))
    return checkpoint


def without(folder: Path, text: str, models: Models) -> Path:
    """A checkpoint that lacks this file."""
    checkpoint = _copied(models.trained, folder)
    (checkpoint / text).unlink()
    return checkpoint


def _header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in sorted(header.items()) if key != "__metadata__")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "short": lambda content: content[: len(content) // 2],
    "seven_bytes": lambda content: content[:7],
    "text": lambda content: b"these are no weights",
    "huge_header": lambda content: struct.pack("<Q", 2**60) + content[8:],
    "header_no_json": lambda content: struct.pack("<Q", 16) + b"x" * 16 + content[24:],
    "header_list": lambda content: struct.pack("<Q", 2) + b"[]" + content[8:],
    "header_empty": lambda content: struct.pack("<Q", 2) + b"{}",
    "pickle": lambda content: b"cos\nsystem\n(S'touch executed'\ntR." + content,
    "huge_shape": lambda content: _header(content, lambda header: _first(header).update(shape=[10**9, 10**9])),
    "negative_shape": lambda content: _header(content, lambda header: _first(header).update(shape=[-1])),
    "unknown_dtype": lambda content: _header(content, lambda header: _first(header).update(dtype="F1024")),
    "far_offsets": lambda content: _header(content, lambda header: _first(header).update(data_offsets=[0, 2**50])),
    "lacks_tensor": lambda content: _header(content, lambda header: header.pop(sorted(header)[-1])),
    "other_shape": lambda content: _header(content, lambda header: _first(header)["shape"].append(1)),
    "flipped": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}
"""What is done to a file of weights, by name."""


def _copied(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "run" / "checkpoints" / checkpoint.name))


def _with_config(checkpoint: Path, text: str) -> Path:
    if text:
        _edit(checkpoint, lambda content: _set(content["config"], text))
    return checkpoint


def _set(node: Any, text: str) -> None:
    """Sets `a.b.0.c=VALUE`, a dotted key and YAML; `a.b=` without a value deletes the key."""
    key, _, value = text.partition("=")
    *parents, last = key.split(".")
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
    if value:
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(value)
    else:
        del node[last]


def _edit(checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes state.json and computes its checksum again, as whoever sends a hostile checkpoint does."""
    file = checkpoint / "state.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    content.pop("checksum", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(content), encoding="utf-8")


def _count_again(content: dict[str, Any], checkpoint: Path) -> None:
    for file in checkpoint.glob("*.safetensors"):
        found = file.read_bytes()
        content["files"][file.name] = {"bytes": len(found), "sha256": hashlib.sha256(found).hexdigest()}
