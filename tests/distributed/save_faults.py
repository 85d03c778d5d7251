"""Saves in one of two processes while the disk of one of them fails.

Started as `python -m tests.distributed.save_faults FOLDER`, with RANK and WORLD_SIZE in the environment.

Every process prints a JSON line for each attempt: the process whose disk fails, the number of the failing call, what
failed, and the message of the error that the process raised.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import torch

from pixelflow.errors import WorkFailed
from pixelflow.processes import World, processes
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.reader import load_checkpoint
from pixelflow.training.saver import Saver
from tests.failing_disk import FailingDisk


def main(folder: Path) -> None:
    with processes(torch.device("cpu")) as (world, _):
        for faulty in range(world.size):
            at = 0
            while True:
                at += 1
                store = CheckpointStore(folder / f"{faulty}-{at}")
                if not attempt(store, world, faulty=faulty, at=at):
                    break


def attempt(store: CheckpointStore, world: World, *, faulty: int, at: int) -> bool:
    """Saves step 5, step 10 with a failing call, and step 15. Returns whether the call was reached."""
    saver = Saver(store, world=world)
    save(saver, 5)
    disk = FailingDisk(at if world.rank == faulty else 0, errno.EIO if at % 2 else errno.ENOSPC)
    message = None
    with disk.active():
        try:
            save(saver, 10)
        except WorkFailed as error:
            message = str(error)
    world.gather(None)
    latest, problems = store.latest() if world.rank == 0 else (None, [])
    kept = None if latest is None else [latest.step, latest.tensors["model"]["a"].sum().item(), problems]
    world.gather(None)
    save(saver, 15)
    assert load_checkpoint(store.path(15)).tensors["model"]["a"].sum().item() == 15 * 8
    left = sorted(path.name for path in store.folder.glob(".*"))
    record = {"faulty": faulty, "at": at, "failed": disk.failed, "message": message, "kept": kept, "left": left}
    print(json.dumps(record), flush=True)
    return any(world.gather(bool(disk.failed)))


def save(saver: Saver, step: int) -> None:
    values = {"a": torch.full((8,), float(step)), "b": torch.full((4,), float(step)), "c": torch.zeros(2)}
    saver.save(step, [("model", name, value) for name, value in values.items()], {"config": {}})
    saver.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
