"""MLflow as a mirror of a run folder; training does not depend on whether MLflow is slow, down or broken.

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
"""Signals of Ctrl-C and SLURM to every process of a job. Training acts on them; the mirror ignores them."""


class MLflowMirror:
    """Mirrors `folder/metrics.jsonl` to one run of MLflow from its construction until `close`.

    No failure of MLflow raises; it is logged once, as a warning.

    Args:
        folder: The run folder. `mlflow.json` there holds the run's id and the offset up to which it is sent, so that a
            later mirror of the same folder continues the same run.
        uri: `sqlite:///FILE` or `http://HOST:PORT`.
        experiment: Name of the experiment, which is created where it is missing.
        run_name: Name of the run.
        parent_run_id: The MLflow run under which this one is shown, such as that of a sweep.
        artifact_root: The address at which a new experiment stores artifacts; by default `mlartifacts` beside a SQLite
            file, or the server's own place.

    Raises:
        ValueError: `uri` is no address.
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
        # Blocked signals stay blocked in a new process, so that they cannot end it at any moment.
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
            logger.warning("cannot start the MLflow mirror (%s): training continues without it", first_line(error))
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
                "the MLflow mirror of %s ended with status %d: training continues, and what was missed is sent later",
                self.folder,
                code,
            )

    def close(self, timeout: float = 10.0) -> int:
        """Waits until everything is sent.

        Args:
            timeout: Maximum seconds to wait.

        Returns:
            The number of records that are not sent, which a warning names as well; `sync` or the next mirror of this
            folder sends them.
        """
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
        with contextlib.suppress(OSError):  # the mirror has ended
            # A line, not the end of the stream: forked data workers also hold the pipe open.
            process.stdin.write(f"{timeout}\n")
            process.stdin.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
        self._relay.join(0.5)  # for the last warnings


@dataclass(frozen=True)
class SyncReport:
    """The result of `sync`.

    Args:
        sent: Number of records sent by this call.
        unsent: Number of records that MLflow does not have.
        run_id: The run in MLflow.
        error: One line that states why records are unsent.
    """

    sent: int
    unsent: int
    run_id: str | None
    error: str | None


def sync(folder: Path, *, timeout: float = 60.0) -> SyncReport:
    """Sends the records of a folder that MLflow does not have yet, in this process.

    Args:
        folder: A run folder that was mirrored before.
        timeout: Maximum seconds that the call takes.

    Returns:
        The number of records sent and unsent.

    Raises:
        ValueError: The folder was never mirrored.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sender = MLflowSender(folder=folder)
    problems: list[BaseException] = []

    def send() -> None:
        try:
            sender.send()
        except Exception as error:  # of any kind; the report names it
            problems.append(error)
        finally:
            sender.close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(timeout)
    sender.cancelled.set()
    error = first_line(problems[0]) if problems else None
    if error is None and thread.is_alive():
        error = f"not finished after {timeout} s"
    state = MirrorState.load(folder)
    return SyncReport(sent=sender.sent, unsent=count_unsent(folder), run_id=state.run_id, error=error)
