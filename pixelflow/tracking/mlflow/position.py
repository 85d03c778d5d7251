"""`mlflow.json`: the offset up to which a run folder has been sent to MLflow, and the address."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from pixelflow.errors import UserError
from pixelflow.files import InUse, NoLocks, lock, write_json
from pixelflow.tracking.jsonl import FILE_NAME, read_records

STATE_NAME = "mlflow.json"
LOCK_NAME = "mlflow.lock"
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class MirrorState:
    """The content of mlflow.json.

    Args:
        folder_id: Identifier of the run folder, a tag in MLflow, by which its run is found again.
        uri: See `MLflowMirror`, as for experiment, run_name, parent_run_id and artifact_root.
        experiment: Name of the experiment.
        run_name: Name of the run.
        parent_run_id: The run under which this one is shown.
        artifact_root: The address of a new experiment's artifacts.
        experiment_id: The experiment in MLflow, once known.
        run_id: The run in MLflow, once known.
        offset: Bytes of metrics.jsonl that MLflow is known to have.
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
        """Reads a folder's mlflow.json.

        Raises:
            ValueError: The folder was never mirrored.
            UserError: The file is damaged.
        """
        path = folder / STATE_NAME
        try:
            return MirrorState(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ValueError(
                f"{folder} has no {STATE_NAME}: it was never mirrored; make an MLflowMirror of it"
            ) from None
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}); delete it, and the run is sent to MLflow as a new one"
            ) from None

    def save(self, folder: Path) -> None:
        """Writes mlflow.json."""
        write_json(folder / STATE_NAME, asdict(self))

    @property
    def database(self) -> Path | None:
        """The SQLite file; None where MLflow is a server."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None


def store_settings(
    *, folder: Path, uri: str, experiment: str, run_name: str, parent_run_id: str | None, artifact_root: str | None
) -> None:
    """Creates or updates `folder/mlflow.json`; for its arguments see `MLflowMirror`.

    With another uri or experiment the folder is sent to a new run there, from the first line on.

    Raises:
        ValueError: `uri` is no address.
    """
    if "://" not in uri and not uri.startswith("databricks"):
        raise ValueError(f"uri={uri!r} must be an address: {SQLITE}FILE or http://HOST:PORT")
    if uri.startswith(SQLITE):
        # The sending process may have another working folder.
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    settings = {"uri": uri, "experiment": experiment, "run_name": run_name}
    settings |= {"artifact_root": artifact_root}  # type: ignore[dict-item]
    if parent_run_id is not None:  # given once, before the runs of a sweep start
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
    """Returns the number of records of metrics.jsonl that MLflow is not known to have."""
    path = folder / FILE_NAME
    offset = MirrorState.load(folder).offset if (folder / STATE_NAME).exists() else 0
    return sum(1 for _ in read_records(path, offset, warn=False)) if path.exists() else 0


def lock_file(path: Path, *, wait: bool) -> IO[str] | None:
    """Takes a lock for sending to MLflow; a filesystem without locks counts as free, since training must not fail.

    Args:
        path: The lock file.
        wait: Whether to wait for a process that holds the lock.

    Returns:
        The open file, which holds the lock until it is closed or the process ends; None where another process holds
        the lock and `wait` is False.
    """
    try:
        return lock(path, wait=wait)
    except InUse:
        return None
    except NoLocks:
        return path.open("a", encoding="utf-8")
