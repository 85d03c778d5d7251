"""The process that sends a run to MLflow during training; see `mirror.py` for why it is a process."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from pixelflow.terminal import VisibleFormatter
from pixelflow.tracking.mlflow.sender import MLflowSender, first_line

logger = logging.getLogger(__name__)

WAKE_EVERY = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between reads of the file, and the maximum between attempts while MLflow does not answer."""
ORPHAN_SECONDS = 60.0
"""Seconds that this process continues after the process that started it has ended."""
ENVIRONMENT = {
    # By default a call to a server that is down takes four minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Settings of MLflow's client where the environment does not set them."""


def keep_sending(sender: MLflowSender, stop: threading.Event) -> None:
    """Sends new records every second until `stop` is set and everything is sent.

    Args:
        sender: The sender of one run folder. Its first failure is logged as a warning.
        stop: Set by another thread at the end of the run.
    """
    pause, warned = WAKE_EVERY, False
    while True:
        stopping = stop.is_set()
        try:
            sender.send()
        except Exception as error:  # of any kind: training does not depend on MLflow
            if not warned:
                logger.warning(
                    "MLflow at %s does not work (%s): training continues, and what was missed is sent later",
                    sender.state.uri,
                    first_line(error),
                )
            warned = True
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if stopping:
                return
            pause = WAKE_EVERY
        if stopping:
            time.sleep(WAKE_EVERY / 2)
        else:
            stop.wait(pause)


def main() -> None:
    """Runs the sending process; its arguments are FOLDER and SESSION_START.

    It writes warnings to stdout, one per line. A line on stdin, the number of seconds left, asks it to finish; the end
    of stdin means that the process that started it has ended.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.getLogger("pixelflow").addHandler(handler)
    sys.stdout = sys.stderr  # stdout carries our warnings only
    stop = threading.Event()

    def watch() -> None:
        patience = float(sys.stdin.readline() or ORPHAN_SECONDS)
        stop.set()
        time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    keep_sending(MLflowSender(folder=Path(sys.argv[1]), session_start=int(sys.argv[2])), stop)
