from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from pixelflow.signals import SIGNALS, ending_at_once, held_back, pause, stop_on_signals, stop_signal


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


def test_the_second_ctrl_c_stops_at_once_and_the_first_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_signal() is signal.SIGINT and "Ctrl-C again stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a third one ends the process
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_ctrl_c_after_sigterm_stops_nothing_at_once() -> None:
    """A launcher sends SIGTERM to jobs that the terminal's Ctrl-C reaches as well, in either order."""
    with stop_on_signals():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop_signal() is signal.SIGTERM


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals(), ending_at_once():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop_signal() is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_pause_ends_with_a_signal() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        pause(1000)
    with stop_on_signals():
        pause(0.01)


CHILD = """
from pixelflow.signals import stop_on_signals, stop_signal
print(input())
with stop_on_signals():
    print(stop_signal().name)
"""


def test_a_signal_that_a_process_gets_while_it_starts_waits_until_it_can_act_on_it() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with held_back(signal.SIGINT):
        child = subprocess.Popen([sys.executable, "-c", CHILD], text=True, **pipes)  # type: ignore[call-overload]
    child.send_signal(signal.SIGINT)
    told, _ = child.communicate("started\n")
    assert told.split() == ["started", "SIGINT"] and child.returncode == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_imports_are_ended_without_a_traceback() -> None:
    code = (
        "import os, signal\nfrom pixelflow.signals import ending_at_once\n"
        "with ending_at_once():\n    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    with ending_at_once():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
