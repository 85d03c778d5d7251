"""The folder of a run: its lock, its records and its log."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from pixelflow.errors import Interrupted, UserError
from pixelflow.files import lock, make_folder, write_json, write_text, writing
from pixelflow.runs.identity import config_hash, training_config
from pixelflow.runs.provenance import named_modules, provenance
from pixelflow.runs.status import LOCK_FILE, name_host, write_status
from pixelflow.terminal import Transcript, transcript

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder of installed packages."""

_RECORDED = "_pixelflow_log"
"""Attribute of an exception: the log.txt that has its traceback."""


def find_run_folder(config: Mapping[str, Any], name: str) -> Path:
    """Returns `runs_dir/experiment/<name>-<hash8>`, or the folder that already has this hash under another name.

    With `runs_of` the folder lies in that experiment.
    """
    parent = Path(config["runs_dir"]) / (config.get("runs_of") or config["experiment"])
    digest = config_hash(config)
    found = sorted(p for p in parent.glob(f"*-{digest}") if p.is_dir())
    return found[0] if found else parent / f"{name}-{digest}"


def recorded_in(error: BaseException) -> Path | None:
    """Returns the log.txt that an error was recorded in, because it was raised while a run folder was open."""
    return getattr(error, _RECORDED, None)


class RunFolder:
    """A run's folder, held by one process at a time. It is used as a context manager.

    Entering makes the folder and writes config.yaml and provenance.json; leaving writes to status.json how the work
    ended. config.yaml keeps the config of the first call. Later calls may differ in the keys that do not determine the
    weights; the record of each evaluation holds its own settings.

    Args:
        path: The folder.
        config: The resolved config of this call.

    Raises:
        UserError: Another process holds the folder, or it belongs to a config with other weights.
        WorkFailed: The disk is full.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.config = path, config
        self._lock: IO[str] | None = None
        self._log: Transcript | None = None
        self._own_log = False

    def __enter__(self) -> RunFolder:
        make_folder(self.path)
        self._lock = lock(self.path / LOCK_FILE, patient=True)
        os.register_at_fork(after_in_child=self._lock.close)  # a surviving data worker would keep the folder locked
        try:
            name_host(self._lock)
            self._write_config()
            write_json(self.path / "provenance.json", provenance(ROOT, named_modules(self.config)))
            with writing(self.path / "log.txt"):
                self._begin_log()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _begin_log(self) -> None:
        """Begins log.txt. In a command it receives the output of the whole process, otherwise the log records alone."""
        self._log = transcript() or Transcript()
        self._log.begin(self.path / "log.txt")
        self._own_log = self._log is not transcript()
        if self._own_log:
            logging.getLogger().addHandler(self._log)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._log is not None and self._lock is not None
        try:
            if error is not None:
                self._record_end(error, trace)
        finally:
            if self._own_log:
                logging.getLogger().removeHandler(self._log)
                self._log.end()
            self._lock.close()

    def set_status(self, state: str, **changes: Any) -> None:
        """Writes the run's state; see `pixelflow.runs.status.write_status`."""
        write_status(self.path, state, **changes)

    def _record_end(self, error: BaseException, trace: TracebackType | None) -> None:
        interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
        by_hand = isinstance(error, KeyboardInterrupt)
        message = "stopped at once by Ctrl-C" if by_hand else (str(error) or type(error).__name__).splitlines()[0]
        # To the file alone: whoever catches the error prints it to the terminal.
        about = (type(error), error, trace)
        assert self._log is not None
        self._log.handle(logger.makeRecord(__name__, logging.ERROR, __file__, 0, "stopped: %s", (message,), about))
        setattr(error, _RECORDED, self.path / "log.txt")
        self.set_status("interrupted" if interrupted else "failed", message=message)

    def _write_config(self) -> None:
        path = self.path / "config.yaml"
        if path.exists():
            try:
                there = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError):
                there = None
            if not isinstance(there, dict):
                raise UserError(f"{path} is damaged; move {self.path} away, and the same command starts anew")
            if training_config(there) != training_config(json.loads(json.dumps(self.config))):
                raise UserError(f"{self.path} belongs to another config; move it away or change runs_dir")
        else:
            there = dict(self.config)
            write_text(path, yaml.safe_dump(there, sort_keys=False))
        self.config = there
