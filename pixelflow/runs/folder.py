"""The folder of a run: who may write to it, what it is, how it stands."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from pixelflow.files import write_json, write_text
from pixelflow.runs.identity import config_hash, training_config
from pixelflow.runs.provenance import provenance
from pixelflow.runs.status import write_status

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


def find_run_folder(config: Mapping[str, Any], name: str) -> Path:
    """`runs_dir/experiment/<name>-<hash8>`, or the folder that already has this hash under another name."""
    parent = Path(config["runs_dir"]) / config["experiment"]
    digest = config_hash(config)
    found = sorted(p for p in parent.glob(f"*-{digest}") if p.is_dir())
    return found[0] if found else parent / f"{name}-{digest}"


class RunFolder:
    """A run's folder, held by one process at a time. Use as a context manager.

    Entering makes the folder and writes config.yaml and provenance.json; leaving writes how it ended to status.json.
    Raises ValueError if another process holds it, or if it belongs to another config.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.config = path, config
        self._lock: IO[str] | None = None
        self._log: logging.Handler | None = None

    def __enter__(self) -> RunFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"{self.path} is in use by another process; wait for it, or change a setting") from None
        os.register_at_fork(after_in_child=self._lock.close)  # else a data worker left over would hold it
        self._write_config()
        write_json(self.path / "provenance.json", provenance(ROOT))
        self._log = logging.FileHandler(self.path / "log.txt")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._log is not None and self._lock is not None
        if error is not None:
            from pixelflow.errors import Interrupted  # torch, which what only looks at runs does without

            interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
            by_hand = isinstance(error, KeyboardInterrupt)
            message = "interrupted" if by_hand else (str(error) or type(error).__name__).splitlines()[0]
            self.set_status("interrupted" if interrupted else "failed", message=message)
            # Into the file alone: the terminal gets a line from whoever catches the error.
            about = (type(error), error, trace)
            self._log.handle(logger.makeRecord(__name__, logging.ERROR, __file__, 0, "stopped: %s", (message,), about))
        logging.getLogger().removeHandler(self._log)
        self._log.close()
        self._lock.close()

    def _write_config(self) -> None:
        path = self.path / "config.yaml"
        if path.exists():
            there = yaml.safe_load(path.read_text(encoding="utf-8"))
            if training_config(there) != training_config(json.loads(json.dumps(self.config))):
                raise ValueError(f"{self.path} belongs to another config; move it away or change runs_dir")
        else:
            there = dict(self.config)
            write_text(path, yaml.safe_dump(there, sort_keys=False))
        self.config = there

    def set_status(self, state: str, **changes: Any) -> None:
        """Writes the run's state; see `pixelflow.runs.status.write_status`."""
        write_status(self.path, state, **changes)
