"""Signals that ask a job to stop: the job completes its step, saves, and exits with status 75, or 130 after Ctrl-C.

SLURM sends SIGTERM before it kills a job; submitit requests SIGUSR2 ahead of a time limit or a preemption. Ctrl-C sends
SIGINT to every process that the terminal runs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CONTINUE = 75
"""Exit status of interrupted work: EX_TEMPFAIL of sysexits.h. A supervisor starts such work again."""

BY_HAND = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as in shells. It differs from CONTINUE, so that a script which repeats
interrupted work does not repeat what a person has stopped."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

AGAIN = b"\nCtrl-C: stopping as soon as the work is saved. Ctrl-C again stops at once.\n"

_received: signal.Signals | None = None
_by_hand = False


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Records SIGINT, SIGTERM and SIGUSR2 within the block instead of ending the process; `stop_signal` returns them.

    A second SIGINT raises KeyboardInterrupt, and a third one ends the process as if there were no handler. SIGINT stays
    ignored where it was ignored before, as in a background job of a script.

    Only the main thread of a process can handle signals. In another thread, and in a nested call, this does nothing.
    """
    global _received, _by_hand
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or signal.getsignal(signal.SIGTERM) is _note:
        yield
        return
    _received, _by_hand = None, False
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _note) for number in numbers}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see `held_back`
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signal() -> signal.Signals | None:
    """Returns the first signal that arrived within `stop_on_signals`, or None."""
    return _received


def pause(seconds: float) -> None:
    """Sleeps, but not longer than until a signal arrives within `stop_on_signals`."""
    end = time.monotonic() + seconds
    while _received is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))


@contextmanager
def held_back(*numbers: signal.Signals) -> Iterator[None]:
    """Defers signals to the end of the block. A process that is started there receives them in its `stop_on_signals`.

    In another thread than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    # The mask is inherited by new processes; the handlers are for other threads, to which the mask does not apply.
    before = {number: signal.signal(number, lambda number, frame: seen.append(number)) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for received in dict.fromkeys(seen):
            signal.raise_signal(received)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the process without a traceback. For imports, which take seconds and leave nothing behind.

    An exception could not do that: modules that are written in C turn it into errors of their own.
    """
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _note(number: int, frame: FrameType | None) -> None:
    global _received, _by_hand
    if number == signal.SIGINT:
        if _by_hand:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        _by_hand = True
        if os.environ.get("RANK", "0") == "0":
            os.write(2, AGAIN)  # a handler may run while sys.stderr is in use
    _received = _received or signal.Signals(number)
