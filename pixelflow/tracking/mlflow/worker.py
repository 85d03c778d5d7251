"""The process that sends a run to MLflow while training goes on; mlflow_mirror starts it and says why it is one."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from pixelflow.tracking.mlflow.sender import MLflowSender, first_line

logger = logging.getLogger(__name__)

WAKE_EVERY = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between looks at the file, and at most between attempts while MLflow is away."""
ORPHAN_SECONDS = 60.0
"""How long the process goes on after the death of the one that started it."""
ENVIRONMENT = {
    # By default a call to a server that is down takes 4 minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Settings of MLflow's client, unless the user made them."""


def keep_sending(sender: MLflowSender, stop: threading.Event) -> None:
    """Send what is new every second until `stop` is set and everything is sent. Warns once when MLflow is away."""
    pause, warned = WAKE_EVERY, False
    while True:
        stopping = stop.is_set()
        try:
            sender.send()
        except Exception as error:  # whatever MLflow does, training goes on
            if not warned:
                logger.warning(
                    "MLflow at %s does not work (%s): training goes on, and what was missed is sent later",
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
    """The sending process: arguments FOLDER SESSION_START. Its stdout carries warnings, one a line.

    A line on stdin, the seconds that are left, tells it to finish; the end of stdin, that nobody waits any more.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("pixelflow").addHandler(handler)
    sys.stdout = sys.stderr  # what MLflow prints is no warning of ours
    stop = threading.Event()

    def watch() -> None:
        patience = float(sys.stdin.readline() or ORPHAN_SECONDS)
        stop.set()
        time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    keep_sending(MLflowSender(folder=Path(sys.argv[1]), session_start=int(sys.argv[2])), stop)
