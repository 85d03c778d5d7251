"""MLflow as a mirror of a run folder, which can be slow, down or broken without training noticing.

The mirror is a process of its own that reads `metrics.jsonl`. A thread would share Python's global lock with training,
and importing MLflow alone holds it for seconds: measured, training steps of 3 ms take 20 to 40 ms meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from pixelflow.tracking.jsonl import FILE_NAME
from pixelflow.tracking.mlflow.position import MirrorState, count_unsent, store_settings
from pixelflow.tracking.mlflow.sender import MLflowSender, first_line
from pixelflow.tracking.mlflow.worker import ENVIRONMENT

logger = logging.getLogger(__name__)

COMMAND = "from pixelflow.tracking.mlflow.worker import main; main()"
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
"""What Ctrl-C and SLURM send to every process of a job: for training to act upon, while the mirror goes on."""


class MLflowMirror:
    """Mirrors `folder/metrics.jsonl` to one run of MLflow from now until `close`.

    folder: the run folder; `mlflow.json` there keeps the run's id and how far it is sent, so that a later mirror of
        the same folder goes on with the same run.
    uri: `sqlite:///FILE` or `http://HOST:PORT`.
    experiment, run_name: names in MLflow; the experiment is created where it is missing.
    parent_run_id: the MLflow run under which this one is shown, as for a sweep.
    artifact_root: where a new experiment keeps its artifacts; without, `mlartifacts` beside a SQLite file, or the
        server's own place.
    Raises ValueError for a uri that is no address. No failure of MLflow raises: it is logged as a warning, once.
    """

    def __init__(
        self,
        *,
        folder: Path,
        uri: str,
        experiment: str,
        run_name: str,
        parent_run_id: str | None = None,
        artifact_root: str | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        store_settings(
            folder=folder,
            uri=uri,
            experiment=experiment,
            run_name=run_name,
            parent_run_id=parent_run_id,
            artifact_root=artifact_root,
        )
        self.folder = folder
        self.uri = uri
        self._closing = False
        self._process = self._start()
        self._relay = threading.Thread(target=self._relay_warnings, daemon=True)
        self._relay.start()

    def _start(self) -> subprocess.Popen[str] | None:
        log = self.folder / FILE_NAME
        session_start = log.stat().st_size if log.exists() else 0
        # Blocked signals stay blocked in a new process, so there is no moment at which they could end it.
        python_path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", COMMAND, str(self.folder.absolute()), str(session_start)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**ENVIRONMENT, **os.environ, "PYTHONPATH": python_path},
            )
        except OSError as error:
            logger.warning("cannot start the MLflow mirror (%s): training goes on without", first_line(error))
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _relay_warnings(self) -> None:
        if self._process is None:
            return
        assert self._process.stdout is not None
        for line in self._process.stdout:
            logger.warning(line.rstrip())
        code = self._process.wait()
        if code and not self._closing:
            logger.warning(
                "the MLflow mirror of %s ended with status %d: training goes on, and what was missed is sent later",
                self.folder,
                code,
            )

    def close(self, timeout: float = 10.0) -> int:
        """Wait at most `timeout` seconds until everything is sent. Returns the number of records that are not, and
        logs it unless it is 0: `sync` or the next mirror of this folder sends them."""
        if self._closing:
            return count_unsent(self.folder)
        self._closing = True
        if self._process is not None:
            self._finish(self._process, timeout)
        unsent = count_unsent(self.folder)
        if unsent:
            logger.warning(
                "%d records of %s are not in MLflow (%s) yet: a sync sends them", unsent, self.folder, self.uri
            )
        return unsent

    def _finish(self, process: subprocess.Popen[str], timeout: float) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # a mirror that died has no stdin any more
            # A line, not the end of the stream: forked data workers hold the pipe open as well.
            process.stdin.write(f"{timeout}\n")
            process.stdin.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
        self._relay.join(0.5)  # for the last warnings


@dataclass(frozen=True)
class SyncReport:
    """sent, unsent: records of metrics.jsonl. run_id: in MLflow. error: why some are unsent, in a line."""

    sent: int
    unsent: int
    run_id: str | None
    error: str | None


def sync(folder: Path, *, timeout: float = 60.0) -> SyncReport:
    """Send what MLflow does not have yet of a folder that was mirrored before, in this process.

    Returns after `timeout` seconds at the latest. Raises ValueError for a folder that was never mirrored.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sender = MLflowSender(folder=folder)
    problems: list[BaseException] = []

    def send() -> None:
        try:
            sender.send()
        except Exception as error:  # of any kind: it goes into the report
            problems.append(error)
        finally:
            sender.close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(timeout)
    sender.cancelled.set()
    error = first_line(problems[0]) if problems else None
    if error is None and thread.is_alive():
        error = f"not done after {timeout} s"
    state = MirrorState.load(folder)
    return SyncReport(sent=sender.sent, unsent=count_unsent(folder), run_id=state.run_id, error=error)
