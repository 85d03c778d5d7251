from __future__ import annotations

import os
import signal
import threading

import pytest

from pixelflow.signals import SIGNALS, stop_on_signals, stop_signal


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_handler_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals():
        assert stop_signal() is None
        os.kill(os.getpid(), number)
        assert stop_signal() is number
    assert signal.getsignal(number) is before


def test_the_first_signal_counts_and_the_next_use_starts_anew() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signal() is signal.SIGUSR2
    with stop_on_signals():
        assert stop_signal() is None


def test_an_inner_use_keeps_what_was_noted() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with stop_on_signals():
            assert stop_signal() is signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # the outer handler is still there
        assert stop_signal() is signal.SIGTERM


def test_a_thread_leaves_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with stop_on_signals():
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
