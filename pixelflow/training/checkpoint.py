"""Checkpoints: a folder of safetensors and one JSON, never a pickle.

A checkpoint is written aside and renamed, so a folder with the final name is whole; its `state.json` holds the size
and SHA-256 of every other file, and loading verifies them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or does not fit; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """tensors: by file stem ("model", "ema", "optimizer"), each a flat dict. state: plain JSON values."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, `folder/step_00001000/`. keep: how many of the newest stay."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        """Steps with a finished checkpoint, rising."""
        names = [p.name.removeprefix("step_") for p in self.folder.glob("step_*") if p.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint and drop those beyond `keep`. Raises OSError with what is kept if writing fails."""
        final = self.path(step)
        aside = self.folder / f".{final.name}.{os.getpid()}"
        try:
            for stale in self.folder.glob(".step_*"):
                shutil.rmtree(stale)
            aside.mkdir(parents=True)
            files = {}
            for stem, flat in tensors.items():
                file = aside / f"{stem}.safetensors"
                save_file({name: t.detach().contiguous() for name, t in flat.items()}, file)
                files[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
                _sync(file)
            text = json.dumps({"step": step, "files": files, **state}, indent=1)
            (aside / "state.json").write_text(text, encoding="utf-8")
            _sync(aside / "state.json")
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
            _sync(self.folder)
        except Exception as error:  # safetensors wraps a full disk in its own exception
            shutil.rmtree(aside, ignore_errors=True)
            kept = self.steps()
            whole = f"the checkpoint of step {kept[-1]} is whole" if kept else "there is no earlier checkpoint"
            raise OSError(
                f"checkpoint of step {step} could not be written to {self.folder}: {error}; {whole}"
            ) from error
        # Later steps are of checkpoints that did not verify: they must not push out the one just written.
        for old in [s for s in self.steps() if s <= step][: -self.keep]:
            shutil.rmtree(self.path(old))
        return final

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that verifies, and a line for each newer one that does not."""
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return load_checkpoint(self.path(step)), problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, problems


def load_checkpoint(path: Path, stems: tuple[str, ...] | None = None) -> Checkpoint:
    """Read and verify a checkpoint folder; `stems` limits which tensor files are read.

    Raises CheckpointError naming the file: missing, of another size (truncated), or with another checksum.
    """
    path = Path(path)
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a checkpoint: it has no state.json") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / 'state.json'} cannot be read: {error}") from None
    if not isinstance(state, dict) or not {"step", "files"} <= state.keys():
        raise CheckpointError(f"{path / 'state.json'} is damaged; use another checkpoint in {path.parent}")
    tensors = {}
    for name, expected in state.pop("files").items():
        file = path / name
        stem = name.removesuffix(".safetensors")
        if stems is not None and stem not in stems:
            continue
        if not file.exists():
            raise CheckpointError(f"{file} is missing; use another checkpoint in {path.parent}")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(
                f"{file} has {size} bytes instead of {expected['bytes']}: it is truncated or was changed; "
                f"use another checkpoint in {path.parent}"
            )
        if sha256(file) != expected["sha256"]:
            raise CheckpointError(f"{file} is damaged (checksum differs); use another checkpoint in {path.parent}")
        tensors[stem] = load_file(file)
    return Checkpoint(path, state["step"], tensors, state)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as flat tensors, `<parameter number>.<name>`, and its groups as plain values."""
    state = optimizer.state_dict()
    flat = {f"{i}.{name}": value for i, slots in state["state"].items() for name, value in slots.items()}
    return flat, state["param_groups"]


def restore_optimizer(
    optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """A rename must not reach the disk before the bytes that it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
