"""Checkpoints that are changed at random are loaded as they were, or refused in one message; nothing else happens.

CI draws 100 checkpoints; `PIXELFLOW_FUZZ=2000 python -m pytest tests/unit/training/test_checkpoint_fuzz.py` draws more.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pixelflow
from pixelflow.errors import UserError
from pixelflow.training.checkpoint import sha256
from pixelflow.training.locate import find_checkpoint
from pixelflow.training.reader import checksum, load_checkpoint
from pixelflow.training.weights import init_from, read_weights
from tests.tiny import tiny_pixelflow
from tests.unit.training.test_trainer import NUM_CLASSES, make_trainer

DRAWS = int(os.environ.get("PIXELFLOW_FUZZ", "100"))
SETTINGS = settings(
    max_examples=DRAWS, deadline=None, suppress_health_check=[*HealthCheck], database=None,
    derandomize="PIXELFLOW_FUZZ" not in os.environ,
)  # fmt: skip
FILES = ["model.safetensors", "ema.safetensors", "optimizer.safetensors"]

foreign = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([2**31, 2**63, 10**9, 10**12, 10**30]),
    st.floats(), st.text(max_size=5), st.just("x/../../../y"), st.just([]), st.just({}), st.just([1, "a", None]),
    st.just({"_target_": "os.system", "command": "touch canary"}), st.just("\ud800"), st.just("${oc.env:HOME}"),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with everything that a resume reads, and the config of a model of its shapes."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    trainer = make_trainer(folder / "checkpoints", max_steps=2)
    backbone = {"patch_size": 2, "depth": 1, "num_heads": 2, "head_dim": 8}
    sizes: dict[str, Any] = {"image_size": 8, "num_classes": NUM_CLASSES, "channels": 1}
    model = pixelflow.build(**sizes, num_stages=2, **backbone)
    trainer.config = dict(model.recipe.config)
    trainer.fit()
    shutil.rmtree(folder / "snapshots", ignore_errors=True)
    assert pixelflow.load(folder, device="cpu").recipe.step == 2
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def change_json(draw: Any, value: Any) -> Any:
    """Removes, replaces or adds a few of the values."""
    for _ in range(draw(st.integers(1, 3))):
        inside = [place for place in places(value) if place]
        if not inside:
            break
        *parents, key = draw(st.sampled_from(inside))
        node = value
        for parent in parents:
            node = node[parent]
        match draw(st.sampled_from(["remove", "replace", "replace", "add"])):
            case "remove":
                del node[key]
            case "replace":
                node[key] = deepcopy(draw(foreign))  # a later change must not put a value into itself
            case "add" if isinstance(node, dict):
                node[draw(st.text(max_size=5))] = deepcopy(draw(foreign))
    return value


def change_bytes(draw: Any, content: bytes) -> bytes:
    data = bytearray(content)
    match draw(st.sampled_from(["flip", "cut", "grow", "empty"])):
        case "flip":
            for _ in range(draw(st.integers(1, 4))):
                head = draw(st.booleans())  # half of the changes are in the header
                data[draw(st.integers(0, (min(len(data), 200) if head else len(data)) - 1))] = draw(st.integers(0, 255))
        case "cut":
            del data[draw(st.integers(0, len(data) - 1)) :]
        case "grow":
            data += draw(st.binary(min_size=1, max_size=64))
        case "empty":
            data = bytearray()
    return bytes(data)


def change_header(draw: Any, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(change_json(draw, json.loads(content[8 : 8 + length]))).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def damage(draw: Any, path: Path) -> None:
    """Changes a checkpoint; mostly its checksums are made right again, so that what is behind them is tested."""
    what = draw(st.sampled_from(["state bytes", "state", "state", "state", "tensor bytes", "header", "kind"]))
    honest = draw(st.integers(0, 3)) > 0
    state_file = path / "state.json"
    state = json.loads(state_file.read_text(encoding="utf-8"))
    if what == "state bytes":
        state_file.write_bytes(change_bytes(draw, state_file.read_bytes()))
        return
    file = path / draw(st.sampled_from(FILES))
    if what == "kind":
        file = draw(st.sampled_from([file, state_file]))
        file.unlink()
        match draw(st.sampled_from(["missing", "folder", "pipe", "link"])):
            case "folder":
                file.mkdir()
            case "pipe":
                os.mkfifo(file)
            case "link":
                file.symlink_to("/dev/zero")
        return
    if what == "state":
        state = change_json(draw, state)
    else:
        file.write_bytes((change_bytes if what == "tensor bytes" else change_header)(draw, file.read_bytes()))
        if honest:
            state["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    if honest:
        state.pop("checksum", None)
        state["checksum"] = checksum(state)
    state_file.write_text(json.dumps(state), encoding="utf-8")


def ways(copy: Path, path: Path, fresh: Path) -> dict[str, Any]:
    """All that reads a checkpoint."""

    def resume() -> None:
        trainer = make_trainer(copy / "checkpoints", max_steps=3, init=1)
        trainer.resume()
        trainer.train_step(next(iter(trainer.loader)))

    return {
        "load": lambda: pixelflow.load(path, device="cpu"),
        "load a run": lambda: pixelflow.load(copy, weights="model", device="cpu"),
        "read": lambda: load_checkpoint(path),
        "average": lambda: read_weights(path, "ema"),
        "rebuilt average": lambda: read_weights(path, "posthoc_0.1"),
        "initial weights": lambda: init_from(tiny_pixelflow(depth=1), path),
        "config": lambda: find_checkpoint(path).config,
        "resume": resume,
    }


@SETTINGS
@given(data=st.data())
def test_changed_checkpoints_are_loaded_or_refused(run: Path, data: Any) -> None:
    copy = run.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    path = copy / "checkpoints" / "step_00000002"
    damage(data.draw, path)
    before = sorted(str(p) for p in run.parent.rglob("*"))
    for name, read in ways(copy, path, run).items():
        try:
            result = read()
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 1500, (name, error)
            assert str(path) in str(error) or "posthoc" in str(error), (name, error)
        else:
            if name == "average":
                sound = load_checkpoint(run / "checkpoints" / "step_00000002").tensors["ema"]
                assert all(value.isfinite().all() for value in result[0].values())
                if (path / "ema.safetensors").read_bytes() == (
                    run / path.relative_to(copy) / "ema.safetensors"
                ).read_bytes():
                    assert all(torch.equal(value, sound[key]) for key, value in result[0].items())
    assert sorted(str(p) for p in run.parent.rglob("*")) == before
    assert not Path("canary").exists()
