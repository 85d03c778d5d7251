"""Checkpoints: folders of safetensors files and one JSON file, never a pickle.

A checkpoint is written beside its place and renamed, so a folder with the final name is complete. Its `state.json`
holds the size and SHA-256 of every other file and of its own content, and loading verifies them (see `reader`).

Tensors are stored whole. Several processes divide the tensors among them, not the elements of a tensor, and each
writes its own files, such as `model.0-of-2.safetensors`. So a run can continue on another number of processes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.files import save_tensors, sync_to_disk
from pixelflow.training.reader import Checkpoint, CheckpointError, checksum, load_checkpoint

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Mapping[str, Tensor]]
"""Tensors by file stem, then by name."""

REPLACED = ".replaced"
"""Suffix of a checkpoint while a new one of the same step replaces it."""

REMOVED = ".removed"
"""Suffix of a checkpoint beyond `keep` while its files are deleted."""


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
        steps = [int(name) for name in names if name.isdecimal()]
        return sorted(step for step in steps if self.path(step).name.removeprefix("step_") in names)

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
        self.tidy()
        aside.mkdir(parents=True)

    def tidy(self) -> None:
        """Removes what killed processes have left of checkpoints that they were writing or removing."""
        self.recover()
        for stale in self.folder.glob(".step_*"):
            shutil.rmtree(stale)

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
            json.dumps(content | {"checksum": checksum(content)}, indent=1, allow_nan=False), encoding="utf-8"
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
            if old == step:
                continue
            removed = self.folder / f".{self.path(old).name}{REMOVED}"
            try:
                self.path(old).rename(removed)  # so that what is half deleted does not look like a checkpoint
            except OSError as error:
                logger.warning("%s could not be removed: %s", self.path(old), error)
            shutil.rmtree(removed, ignore_errors=True)

    def failed(self, step: int, aside: Path, error: Exception) -> WorkFailed:
        """Removes what was written of a checkpoint, and returns the error to raise."""
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):
            self.recover()
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
                found = load_checkpoint(self.path(step))
                if found.step == step:
                    return found, problems
                problems.append(f"{found.path} is a checkpoint of step {found.step}: it was renamed or changed")
            except CheckpointError as error:
                problems.append(str(error))
        return None, problems


def write_tensors(folder: Path, tensors: Tensors, *, part: str = "") -> dict[str, dict[str, Any]]:
    """Writes a file `<stem><part>.safetensors` for each stem, and returns size and checksum by file name."""
    files = {}
    for stem, flat in tensors.items():
        file = folder / f"{stem}{part}.safetensors"
        save_tensors({name: t.detach().contiguous() for name, t in flat.items()}, file)
        files[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        sync_to_disk(file)
    return files


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
