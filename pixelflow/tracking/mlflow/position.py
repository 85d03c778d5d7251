"""`mlflow.json`: how far a run folder has been sent to MLflow, and where to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from pixelflow.tracking.jsonl import FILE_NAME, read_records

STATE_NAME = "mlflow.json"
LOCK_NAME = "mlflow.lock"
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class MirrorState:
    """folder_id: the run folder's own mark, a tag in MLflow, by which its run is found again.

    offset: bytes of metrics.jsonl that MLflow is known to have. The rest: see MLflowMirror.
    """

    folder_id: str
    uri: str
    experiment: str
    run_name: str
    parent_run_id: str | None = None
    artifact_root: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    offset: int = 0

    @staticmethod
    def load(folder: Path) -> MirrorState:
        """Raises ValueError for a folder that was never mirrored."""
        try:
            return MirrorState(**json.loads((folder / STATE_NAME).read_text()))
        except FileNotFoundError:
            raise ValueError(
                f"{folder} has no {STATE_NAME}: it was never mirrored; make an MLflowMirror of it"
            ) from None

    def save(self, folder: Path) -> None:
        """Written aside and renamed, so that there is a whole one at any moment."""
        aside = folder / f"{STATE_NAME}.{os.getpid()}"
        with aside.open("w") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name with nothing in it
        aside.rename(folder / STATE_NAME)

    @property
    def database(self) -> Path | None:
        """The SQLite file, if that is what MLflow is here."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None


def store_settings(
    *, folder: Path, uri: str, experiment: str, run_name: str, parent_run_id: str | None, artifact_root: str | None
) -> None:
    """Make or update `folder/mlflow.json`. Another uri or experiment means another run there, from the first line on.

    Raises ValueError for a uri that is no address.
    """
    if "://" not in uri and not uri.startswith("databricks"):
        raise ValueError(f"uri={uri!r} must be an address: {SQLITE}FILE or http://HOST:PORT")
    if uri.startswith(SQLITE):
        # The process that sends must find the file wherever it runs.
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    settings = {"uri": uri, "experiment": experiment, "run_name": run_name}
    settings |= {"artifact_root": artifact_root}  # type: ignore[dict-item]
    if parent_run_id is not None:  # a sweep names the parent once, before its runs start
        settings["parent_run_id"] = parent_run_id
    if not (folder / STATE_NAME).exists():
        MirrorState(folder_id=uuid.uuid4().hex, **settings).save(folder)  # type: ignore[arg-type]
        return
    old = MirrorState.load(folder)
    new = replace(old, **settings)  # type: ignore[arg-type]
    if (new.uri, new.experiment) != (old.uri, old.experiment):
        new = replace(new, experiment_id=None, run_id=None, offset=0)
    if new != old:
        new.save(folder)


def count_unsent(folder: Path) -> int:
    """Records of metrics.jsonl that MLflow is not known to have."""
    path = folder / FILE_NAME
    offset = MirrorState.load(folder).offset if (folder / STATE_NAME).exists() else 0
    return sum(1 for _ in read_records(path, offset, warn=False)) if path.exists() else 0


def lock_file(path: Path, *, wait: bool) -> IO[bytes] | None:
    """The open file that holds the lock until it is closed or its process dies; None where another holds it.

    wait: until the other lets go, and never None. A file system that knows no locks counts as free.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            raise
    return file
