"""The sending half of the MLflow mirror: from a run folder's metrics.jsonl to its run in MLflow.

Sending a record twice is harmless, so that a process may be killed or a request abandoned at any moment:

- metrics are sent with the times of their lines, and (run, name, time, step, value) is the primary key of MLflow's
  table of metrics, which ignores rows that it has: https://github.com/mlflow/mlflow, SqlMetric and _log_metrics;
- params, tags, artifacts and the status are set, not added;
- the run has the folder's identifier as a tag, and it is searched for before one is created.

Therefore the offset is stored after sending, and sending resumes from there.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from pixelflow.tracking.jsonl import FILE_NAME, read_records
from pixelflow.tracking.mlflow.database import create_database, experiment_of
from pixelflow.tracking.mlflow.position import LOCK_NAME, MirrorState, lock_file

logger = logging.getLogger(__name__)

FOLDER_TAG = "pixelflow.run_folder_id"
BATCH = 1000
"""Metrics per request, MLflow's limit."""
ARTIFACT_ATTEMPTS = 3


class MLflowSender:
    """Sends the part of `folder/metrics.jsonl` behind the offset in `folder/mlflow.json`.

    Args:
        folder: The run folder.
        session_start: The byte at which the training in progress began to write. The run is set to RUNNING, and ends
            that earlier sessions wrote are skipped. None where no training is in progress; then the last end counts.
    """

    def __init__(self, *, folder: Path, session_start: int | None = None) -> None:
        self.folder = folder
        self.session_start = session_start
        self.state = MirrorState.load(folder)
        self.sent = 0
        self.cancelled = threading.Event()
        self._client: Any = None
        self._lock: IO[str] | None = None

    def send(self) -> None:
        """Sends every line that MLflow is not known to have. Raises whatever MLflow raises."""
        try:
            if self._client is None:
                self._connect()
            self._send_lines()
        except BaseException:
            self._client = None  # the next attempt searches again: the server may have restarted without the run
            raise

    def close(self) -> None:
        """Releases the lock, so that another process can mirror the folder."""
        if self._lock is not None:
            self._lock.close()

    def _send_lines(self) -> None:
        from mlflow.entities import Metric

        metrics: list[Metric] = []
        lines = 0
        start = end = self.state.offset
        path = self.folder / FILE_NAME
        for record, end in read_records(path, start, warn=False) if path.exists() else ():
            if self.cancelled.is_set():
                return
            lines += 1
            if "metrics" in record:
                at, step = _milliseconds(record["time"]), record["step"]
                metrics += [Metric(name, value, at, step) for name, value in record["metrics"].items()]
                if len(metrics) < BATCH:
                    continue
            self._log_batch("metrics", metrics)
            if "metrics" not in record:
                self._send_other(record, end)
            self._store(end, lines)
            metrics, lines = [], 0
        if lines:
            self._log_batch("metrics", metrics)
            self._store(end, lines)

    def _send_other(self, record: dict[str, Any], end: int) -> None:
        from mlflow.entities import Param, RunTag

        if "params" in record:
            self._log_batch("params", [Param(str(key), _text(value)) for key, value in record["params"].items()])
        elif "tags" in record:
            self._log_batch("tags", [RunTag(str(key), _text(value)) for key, value in record["tags"].items()])
        elif "artifact" in record:
            self._log_artifact(record["artifact"])
        elif "status" in record and (self.session_start is None or end > self.session_start):
            self._client.set_terminated(self.state.run_id, record["status"], _milliseconds(record["time"]))

    def _log_batch(self, kind: str, entries: list[Any]) -> None:
        """Sends metrics, params or tags, without the entries that MLflow refuses."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self.state.run_id, **{kind: entries})
            return
        except MlflowException as error:
            # Only a bad request is caused by the entry; any other error may pass and is tried again.
            if error.get_http_status_code() != 400:
                raise
            problem = first_line(error)
        self._check_run()
        if len(entries) == 1:
            logger.warning("MLflow refuses %s %r: %s", kind[:-1], entries[0].key, problem)
            return
        half = len(entries) // 2
        self._log_batch(kind, entries[:half])
        self._log_batch(kind, entries[half:])

    def _log_artifact(self, name: str) -> None:
        path = self.folder / name
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        problem = "the file does not exist any more" if inside else "it is not in the run folder"
        for _ in range(ARTIFACT_ATTEMPTS if inside and path.exists() else 0):
            try:
                if path.is_dir():
                    self._client.log_artifacts(self.state.run_id, str(path), name)
                else:
                    self._client.log_artifact(self.state.run_id, str(path), str(Path(name).parent).removeprefix("."))
                return
            except Exception as error:  # each kind of artifact store raises its own
                problem = first_line(error)
            # This raises while MLflow does not answer. Otherwise its artifact store has failed, for which metrics must
            # not wait.
            self._check_run()
        logger.warning("MLflow has not received artifact %s: %s", path, problem)

    def _check_run(self) -> None:
        """Raises an error where MLflow does not answer or the run was deleted there."""
        run = self._client.get_run(self.state.run_id)
        if run.info.lifecycle_stage != "active":
            raise RuntimeError(
                f"run {self.state.run_id} was deleted in MLflow: restore it, or delete {self.folder}/mlflow.json "
                "and start again for a new one"
            )

    def _store(self, offset: int, lines: int) -> None:
        self.state = replace(self.state, offset=offset)
        self.state.save(self.folder)
        self.sent += lines

    def _connect(self) -> None:
        """Finds or creates the experiment and the run."""
        if self._lock is None:
            self._lock = lock_file(self.folder / LOCK_NAME, wait=False)
            if self._lock is None:
                raise RuntimeError(f"another process mirrors {self.folder}")
        from mlflow import MlflowClient  # takes seconds

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if self.state.database is not None:
            create_database(self.state.database)
        self._client = MlflowClient(tracking_uri=self.state.uri)
        experiment_id = experiment_of(self._client, self.state)
        run_id = self._find_run(experiment_id) or self._create_run(experiment_id)
        if run_id != self.state.run_id:
            self.state = replace(self.state, experiment_id=experiment_id, run_id=run_id, offset=0)
            self.state.save(self.folder)
        if self.session_start is not None:
            self._client.update_run(run_id, status="RUNNING")

    def _find_run(self, experiment_id: str) -> str | None:
        known = self.state.run_id if self._is_known() else None
        mark = f"tags.`{FOLDER_TAG}` = '{self.state.folder_id}'"
        order = ["attributes.start_time ASC"]
        found = [run.info.run_id for run in self._client.search_runs([experiment_id], mark, order_by=order)]
        run_id = known or next(iter(found), None)
        # A server that hung may execute a creation after the client gave up and sent it again. The others are empty.
        for double in set(found) - {run_id}:
            self._client.delete_run(double)
        return run_id

    def _is_known(self) -> bool:
        """Returns whether MLflow has the run of mlflow.json; a new database does not."""
        from mlflow.exceptions import MlflowException

        if self.state.run_id is None:
            return False
        try:
            self._check_run()
        except MlflowException as error:
            if error.get_http_status_code() != 404:
                raise
            return False
        return True

    def _create_run(self, experiment_id: str) -> str:
        path = self.folder / FILE_NAME
        first = next(read_records(path, warn=False), None) if path.exists() else None
        tags = {FOLDER_TAG: self.state.folder_id}
        if self.state.parent_run_id is not None:
            tags["mlflow.parentRunId"] = self.state.parent_run_id
        start = _milliseconds(first[0]["time"] if first else time.time())
        return self._client.create_run(experiment_id, start, tags, self.state.run_name).info.run_id


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's first cause, for the log; a failed request has five layers above it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
