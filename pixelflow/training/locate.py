"""Finds the checkpoint that a path means, wherever one is named: `checkpoint=`, `init_from=` and `pixelflow.load`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pixelflow.terminal import one_line
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.reader import CheckpointError, StoredState, read_state

logger = logging.getLogger(__name__)

WANTED = "looked for a run folder, a checkpoint folder such as RUN/checkpoints/step_00002000, or a file in one"

SHOWN = 5
"""Number of names that a message lists."""


def checkpoints_at(path: str | Path) -> list[Path]:
    """Returns the checkpoint folders that a path means, the best one first.

    Args:
        path: A checkpoint folder, a file in one, or a run folder or its folder `checkpoints`, whose checkpoints are
            returned from the newest to the oldest.

    Raises:
        CheckpointError: There is none. The message says what was looked for, and what lies there.
    """
    if "://" in str(path):
        raise CheckpointError(f"{path} is an address, and checkpoints cannot be loaded from addresses yet; {WANTED}")
    folder = Path(path).expanduser()
    if _is_checkpoint(folder):
        return [folder]
    if not folder.is_dir() and _is_checkpoint(folder.parent) and folder.exists():
        return [folder.parent]
    for store in (CheckpointStore(folder / "checkpoints"), CheckpointStore(folder)):
        if steps := store.steps():
            return [store.path(step) for step in reversed(steps)]
    raise CheckpointError(_nothing(path, folder))


def find_checkpoint(path: str | Path) -> StoredState:
    """Returns the state of the newest checkpoint that a path means and whose state.json can be read.

    Args:
        path: See `checkpoints_at`.

    Raises:
        CheckpointError: There is none, or each is damaged.
    """
    found = checkpoints_at(path)
    for number, folder in enumerate(found):
        try:
            return read_state(folder)
        except CheckpointError as error:
            if number + 1 == len(found):
                raise
            logger.warning("skipped a checkpoint: %s", error)
    raise AssertionError("checkpoints_at returns at least one folder")


def _is_checkpoint(folder: Path) -> bool:
    return os.path.lexists(folder / "state.json")  # of any kind: `read_state` says what is wrong with it


def _nothing(path: str | Path, folder: Path) -> str:
    if folder.is_dir():
        if (folder / "checkpoints").is_dir():
            return f"{path} is a run without a finished checkpoint; {_listing(folder / 'checkpoints')}"
        return f"{path} is not a checkpoint: it has no state.json, and no checkpoints/ as a run has; {_listing(folder)}"
    if folder.exists():
        return f"{path} is not a checkpoint: it has no state.json beside it; {WANTED}"
    place = folder.absolute().parent
    while not place.exists():
        place = place.parent
    return f"{path} does not exist; {WANTED}; {_listing(place)}"


def _listing(folder: Path) -> str:
    """Returns what lies in a folder: its first names."""
    try:
        names = sorted(one_line(name) for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror})"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{folder} holds {', '.join(names[:SHOWN]) or 'nothing'}{more}"
