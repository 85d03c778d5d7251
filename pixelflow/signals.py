"""A signal that asks a job to stop: the job finishes its step, saves, and leaves with a status that says "continue me".

SIGTERM is what SLURM sends before it kills, SIGUSR2 what submitit asks for ahead of a time limit or a preemption.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CONTINUE = 75
"""The exit status of interrupted work: sysexits.h's EX_TEMPFAIL, "try again"."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

_received: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR2 only set what `stop_signal` returns; nothing is cut short.

    Only a process's main thread can take signals: elsewhere, and inside another of its kind, this does nothing.
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
    """The first signal to stop that arrived within `stop_on_signals`, or None."""
    return _received


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    _received = _received or signal.Signals(number)
