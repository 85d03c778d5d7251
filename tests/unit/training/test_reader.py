"""Checkpoints that anybody may have made: each is read, or refused in one message that names the file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pixelflow.training.checkpoint import CheckpointStore, sha256
from pixelflow.training.reader import CheckpointError, checksum, load_checkpoint, read_state

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(2.5)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    state = {"config": {"seed": 3, "data": {"name": "ü"}}, "loader": {"position": 8}}
    return CheckpointStore(tmp_path / "checkpoints").save(5, {"model": WEIGHTS, "ema": WEIGHTS}, state)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the state and makes its checksum right again."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    del state["checksum"]
    change(state)
    (path / "state.json").write_text(json.dumps(state | {"checksum": checksum(state)}), encoding="utf-8")


def replace(path: Path, content: bytes, name: str = "model.safetensors") -> None:
    """Replaces a tensor file; its size and its checksum in the state are right."""
    (path / name).write_bytes(content)
    about = {"bytes": len(content), "sha256": sha256(path / name)}
    rewrite(path, lambda state: state["files"].update({name: about}))


def refused(path: Path, message: str, *, file: str = "state.json") -> None:
    before = sorted(p.name for p in path.parent.rglob("*"))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path / file) in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert sorted(p.name for p in path.parent.rglob("*")) == before


# --- state.json ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: Expecting value"),
        (b"[1, 2]", "holds a list instead of a mapping"),
        (b"null", "holds a NoneType instead of a mapping"),
        (b"{}", "checksum differs"),
        (b"\xff\xfe{}", "cannot be read: 'utf-8' codec"),
        (b'{"step": 1, "step": 2}', "the key 'step' appears twice"),
        (b'{"step": NaN}', "the number nan, which is not finite"),
        (b'{"step": -Infinity}', "the number -inf, which is not finite"),
        (b'{"step": 1e999}', "the number inf, which is not finite"),
        (b'{"step": %d}' % 10**30, "which has more than 64 bits"),
        (b'{"step": %s}' % (b"1" * 5000), "cannot be read: Exceeds the limit"),
        (b'{"step": "\\ud800"}', r"it holds '\\ud800', which is not text"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "nested more than 32 deep"),
        (b"[" * 1_000_000, "nested more than 32 deep"),
        (b'{"a": "' + b"x" * 2**24 + b'"}', "is larger than 16 MiB"),
    ],
    ids=range(15),
)
def test_a_state_that_is_malformed(path: Path, content: bytes, message: str) -> None:
    (path / "state.json").write_bytes(content)
    refused(path, message)


@pytest.mark.parametrize(
    "step", ["x/../../../y", "5", 5.0, True, None, -1, 10**13, [5], {"a": 5}], ids=lambda value: repr(value)
)
def test_a_step_that_is_no_number_of_steps(path: Path, step: Any) -> None:
    rewrite(path, lambda state: state.update(step=step))
    refused(path, r"is damaged: step=.* must be a whole number from 0 to")


@pytest.mark.parametrize("key", ["step", "files"])
def test_a_state_that_lacks_a_key(path: Path, key: str) -> None:
    rewrite(path, lambda state: state.pop(key))
    refused(path, f"is damaged: {key}=None")


@pytest.mark.parametrize(
    "files",
    [[], "model.safetensors", 3, {"model.safetensors": 3}, {"model.safetensors": {"bytes": 5}},
     {"model.safetensors": {"bytes": "5", "sha256": "0"}}, {"model.safetensors": {"bytes": -5, "sha256": "0"}},
     {"model.safetensors": {"bytes": True, "sha256": "0"}}, {"model.safetensors": {"bytes": 5, "sha256": 0}}],
    ids=range(9),
)  # fmt: skip
def test_a_list_of_files_of_another_type(path: Path, files: Any) -> None:
    rewrite(path, lambda state: state.update(files=files))
    refused(path, r"is damaged: files")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "..", ".", "", "a/b.safetensors", ".hidden.safetensors", "model.pt",
     "state.json", "a\0.safetensors", "a\n.safetensors", "\x1b[31m.safetensors", "ü.safetensors"],
)  # fmt: skip
def test_a_name_that_is_no_tensor_file(path: Path, name: str) -> None:
    rewrite(path, lambda state: state["files"].update({name: {"bytes": 5, "sha256": "0"}}))
    refused(path, "is not the name of a tensor file")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).isprintable()


def test_the_config_must_be_a_mapping(path: Path) -> None:
    assert read_state(path).config["seed"] == 3
    for config in ([], None, "a: 3"):
        rewrite(path, lambda state, value=config: state.update(config=value))
        with pytest.raises(CheckpointError, match=r"state\.json holds no config"):
            _ = read_state(path).config


# --- what is no file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link outside", "device", "link to itself", "no permission"])
def test_only_regular_files_inside_the_folder_are_opened(path: Path, name: str, kind: str) -> None:
    """A pipe would block and a device would never end."""
    file, message = path / name, "is not a regular file"
    content = file.read_bytes()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "no permission":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        file.write_bytes(content)
        file.chmod(0)
        message = "cannot be read: Permission denied"
    else:
        outside = path.parent / "outside"
        outside.write_bytes(content)
        targets = {"link outside": outside, "device": Path("/dev/zero"), "link to itself": file}
        file.symlink_to(targets[kind])
        message = "link to itself|symbolic links" if kind == "link to itself" else "is a link to a place outside"
    refused(path, message, file=name)


def test_a_link_to_the_folder_and_inside_it_are_followed(path: Path, tmp_path: Path) -> None:
    (path / "model.safetensors").rename(path / "weights.bin")
    (path / "model.safetensors").symlink_to("weights.bin")
    (tmp_path / "best").symlink_to(path)
    assert torch.equal(load_checkpoint(tmp_path / "best").tensors["model"]["a"], WEIGHTS["a"])


# --- tensor files -------------------------------------------------------------------------------------------------


def file_of(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its header is longer than the file"),
        (b"\x05\0\0", "its header is longer than the file"),
        (file_of({}, length=2**63), "its header is longer than the file"),
        (file_of({}, length=2**64 - 1), "its header is longer than the file"),
        (file_of({}, length=3), "its header is longer than the file"),
        (file_of(b" " * (2**24 + 1)), "its header is larger than 16 MiB"),
        (file_of(b"not JSON"), "cannot be read: Expecting value"),
        (file_of(b'{"a": 1, "a": 1}'), "the key 'a' appears twice"),
        (file_of([]), "holds a list instead of a mapping"),
        (file_of({"a": 3}), "the entry of the tensor 'a' is 3"),
        (file_of({"a": entry() | {"more": 1}}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(dtype="F31")}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(dtype=["F32"])}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(shape=[-2])}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(shape=[2.0])}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(shape=[1] * 1000 + [2])}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(shape=[0, 2**62], offsets=[0, 0])}), "the entry of the tensor 'a'"),
        (file_of({"a": entry(shape=[2**62, 2**62])}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(offsets=[8, 0])}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(offsets=[0])}, bytes(8)), "the entry of the tensor 'a'"),
        (file_of({"a": entry(offsets=[8, 16])}, bytes(16)), "'a' begins at byte 8 instead of 0"),
        (file_of({"a": entry(), "b": entry()}, bytes(16)), "'b' begins at byte 0 instead of 8"),
        (file_of({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "'b' begins at byte 4 instead of 8"),
        (file_of({"a": entry()}), "its tensors have 8 bytes, but it holds 0"),
        (file_of({"a": entry()}, bytes(9)), "its tensors have 8 bytes, but it holds 9"),
        (file_of({"a": entry(shape=[2**40], offsets=[0, 2**42])}, bytes(8)), "its tensors have 4398046511104 bytes"),
        (file_of({"__metadata__": {"a": 3}, "a": entry()}, bytes(8)), "cannot be read"),
        (file_of({"\x1b[31m": 3}), r"the entry of the tensor '\\x1b\[31m' is 3"),
    ],
    ids=range(28),
)
def test_a_tensor_file_that_is_malformed(path: Path, content: bytes, message: str) -> None:
    replace(path, content)
    refused(path, message, file="model.safetensors")


def test_a_tensor_that_two_files_hold(path: Path) -> None:
    replace(path, save({"a": torch.zeros(2)}), name="model.1-of-2.safetensors")
    refused(path, "another file also holds the tensor 'a'", file="model.1-of-2.safetensors")


def test_headers_are_read_without_the_tensors(path: Path) -> None:
    headers = read_state(path).headers(["model"])
    assert {name: (info.dtype, info.shape) for name, info in headers.items()} == {
        "a": (torch.float32, (2, 3)), "b": (torch.float32, ())
    }  # fmt: skip
    assert [headers["a"].elements, headers["b"].elements] == [6, 1]


def test_a_checkpoint_under_another_step_is_skipped(path: Path) -> None:
    path.rename(path.with_name("step_00000007"))
    store = CheckpointStore(path.parent)
    assert store.latest()[0] is None
    assert store.latest()[1] == [f"{path.parent}/step_00000007 is a checkpoint of step 5: it was renamed or changed"]
    (path.parent / "step_00000007").rename(path.parent / "step_5")
    assert store.steps() == []
