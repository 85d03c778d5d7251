"""Checkpoints: folders of safetensors files and one JSON file, never a pickle.

A checkpoint is written beside its place and renamed, so a folder with the final name is complete. Its `state.json`
holds the size and SHA-256 of every other file and of its own content, and loading verifies them.

Tensors are stored whole. Several processes divide the tensors among them, not the elements of a tensor, and each
writes its own files, such as `model.0-of-2.safetensors`. So a run can continue on another number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelflow.errors import UserError, WorkFailed

PART = r"\.\d+-of-\d+$"


class CheckpointError(UserError):
    """A checkpoint is missing or damaged, or belongs to something else. The message names the file and the remedy."""


Tensors = Mapping[str, Mapping[str, Tensor]]
"""Tensors by file stem, then by name."""

REPLACED = ".replaced"
"""Suffix of a checkpoint while a new one of the same step replaces it."""


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


class CheckpointStore:
    """The checkpoints of one run, `folder/step_00001000/`. Only the processes of one run may write to it.

    Args:
        folder: Folder of the checkpoints.
        keep: Number of the newest checkpoints that are kept; None for all.
        keep_every: Checkpoints at multiples of this step are kept as well; 0 for none.
    """

    def __init__(self, folder: Path, *, keep: int | None = 2, keep_every: int = 0) -> None:
        self.folder, self.keep, self.keep_every = Path(folder), keep, keep_every

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, in ascending order."""
        names = [p.name.removeprefix("step_") for p in self.folder.glob("step_*") if p.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint of a step."""
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any]) -> Path:
        """Writes a checkpoint, and removes those beyond `keep`.

        Args:
            step: Number of optimizer steps taken.
            tensors: Tensors by file stem, then by name.
            state: Plain JSON values.

        Returns:
            The folder of the checkpoint.

        Raises:
            WorkFailed: The files could not be written. The message names the folder and the checkpoint that is kept.
        """
        aside = self.aside(step)
        try:
            self.begin(aside)
            return self.commit(step, aside, write_tensors(aside, tensors), state)
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk by its own exception
            raise self.failed(step, aside, error) from error
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def aside(self, step: int) -> Path:
        """Returns the temporary folder in which a checkpoint is prepared."""
        return self.folder / f".{self.path(step).name}.{os.getpid()}"

    def begin(self, aside: Path) -> None:
        """Removes temporary folders of processes that were killed, and makes the folder `aside`."""
        self.recover()
        for stale in self.folder.glob(".step_*"):
            shutil.rmtree(stale)
        aside.mkdir(parents=True)

    def commit(self, step: int, aside: Path, files: Mapping[str, Any], state: Mapping[str, Any]) -> Path:
        """Renames a prepared checkpoint to its final name, and removes those beyond `keep`.

        Args:
            step: Number of optimizer steps taken.
            aside: The temporary folder with the tensor files.
            files: Results of `write_tensors` of all processes.
            state: Plain JSON values.

        Returns:
            The folder of the checkpoint.
        """
        content = {"step": step, "files": dict(sorted(files.items())), **state}
        (aside / "state.json").write_text(
            json.dumps(content | {"checksum": _checksum(content)}, indent=1), encoding="utf-8"
        )
        sync_to_disk(aside / "state.json")
        sync_to_disk(aside)
        final, replaced = self.path(step), self.folder / f".{self.path(step).name}{REPLACED}"
        if final.exists():
            final.rename(replaced)  # `recover` undoes this after a crash before the next line
        aside.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
        sync_to_disk(self.folder)
        self._drop(step)
        return final

    def recover(self) -> None:
        """Restores the name of a checkpoint whose replacement was interrupted."""
        for replaced in self.folder.glob(f".step_*{REPLACED}"):
            final = self.folder / replaced.name.removeprefix(".").removesuffix(REPLACED)
            if not final.exists():
                replaced.rename(final)

    def _drop(self, step: int) -> None:
        # Checkpoints of later steps did not verify, and must not cause the removal of the one just written.
        counted = [s for s in self.steps() if s <= step and not (self.keep_every and s % self.keep_every == 0)]
        for old in counted[: -self.keep] if self.keep is not None else []:
            if old != step:
                shutil.rmtree(self.path(old))

    def failed(self, step: int, aside: Path, error: Exception) -> WorkFailed:
        """Removes what was written of a checkpoint, and returns the error to raise."""
        shutil.rmtree(aside, ignore_errors=True)
        kept = self.steps()
        whole = f"the checkpoint of step {kept[-1]} is whole" if kept else "there is no earlier checkpoint"
        return WorkFailed(
            f"the checkpoint of step {step} could not be written to {self.folder}: {error}; {whole}. Free space there "
            "or restore access, then run the same command again to continue"
        )

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """Returns the newest checkpoint that verifies, or None, and a message for each newer one that does not."""
        problems: list[str] = []
        self.recover()
        for step in reversed(self.steps()):
            try:
                return load_checkpoint(self.path(step)), problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, problems


def write_tensors(folder: Path, tensors: Tensors, *, part: str = "") -> dict[str, dict[str, Any]]:
    """Writes a file `<stem><part>.safetensors` for each stem, and returns size and checksum by file name."""
    files = {}
    for stem, flat in tensors.items():
        file = folder / f"{stem}{part}.safetensors"
        save_file({name: t.detach().contiguous() for name, t in flat.items()}, file)
        files[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        sync_to_disk(file)
    return files


def load_checkpoint(path: Path, stems: tuple[str, ...] | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Args:
        path: Its folder.
        stems: File stems to read, such as ("ema",); None for all.

    Raises:
        CheckpointError: A file is missing, truncated or has another checksum; the message names it.
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
    if state.pop("checksum", None) != _checksum(state):
        raise CheckpointError(
            f"{path / 'state.json'} is damaged (checksum differs); use another checkpoint in {path.parent}"
        )
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, expected in state.pop("files").items():
        file = path / name
        stem = stem_of(file)
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
        tensors.setdefault(stem, {}).update(load_file(file))
    return Checkpoint(path, state["step"], tensors, state)


def stem_of(file: Path) -> str:
    """Returns the stem of a tensor file: "model" of both model.safetensors and model.0-of-2.safetensors."""
    return re.sub(PART, "", file.name.removesuffix(".safetensors"))


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Returns the state of an optimizer as tensors by `<parameter number>.<name>`, and its groups as plain values."""
    state = optimizer.state_dict()
    flat = {f"{i}.{name}": value for i, slots in state["state"].items() for name, value in slots.items()}
    return flat, state["param_groups"]


def restore_optimizer(
    optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Loads what `flatten_optimizer` returned into an optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def sha256(file: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum(state: Mapping[str, Any]) -> str:
    """SHA-256 of the values, whatever the layout of the JSON file."""
    return hashlib.sha256(json.dumps(state, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sync_to_disk(path: Path) -> None:
    """Flushes a file or folder to the disk, so that a later rename does not reach the disk before it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
