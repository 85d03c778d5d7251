"""Signals that ask a job to stop: the job completes its step, saves, and exits with status 75.

SLURM sends SIGTERM before it kills a job; submitit requests SIGUSR2 ahead of a time limit or a preemption.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CONTINUE = 75
"""Exit status of interrupted work: EX_TEMPFAIL of sysexits.h."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

_received: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Records SIGTERM and SIGUSR2 within the block instead of ending the process; `stop_signal` returns them.

    Only the main thread of a process can handle signals. In another thread, and in a nested call, this does nothing.
    """
    global _received
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or signal.getsignal(signal.SIGTERM) is _note:
        yield
        return
    _received = None
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signal() -> signal.Signals | None:
    """Returns the first signal that arrived within `stop_on_signals`, or None."""
    return _received


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    _received = _received or signal.Signals(number)
