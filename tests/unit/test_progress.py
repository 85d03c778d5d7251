from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from pixelflow import progress as module
from pixelflow.progress import Progress, clock
from pixelflow.terminal import log_to_terminal, transcript


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(module, "time", time)
    return time


def test_plain_lines_without_a_terminal(time: Time) -> None:
    stream = io.StringIO()
    progress = Progress(total=100, stream=stream)
    for _ in range(100):
        time.now += 1
        progress.advance(1, images=32)
        progress.show("loss 0.5")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert len(lines) == 11  # at most one in ten seconds, and the last step's
    assert lines[0] == "step 1/100  loss 0.5  32 images/s  1:39 left"
    assert lines[-1] == "step 100/100  loss 0.5  32 images/s  0:00 left"


def test_a_bar_on_a_terminal(time: Time) -> None:
    stream = Terminal()
    progress = Progress(total=3, unit="image", stream=stream)
    for number in range(3):
        time.now += 2
        progress.advance(1, images=1)
        progress.show(f"note {number}\x1b")
    assert "\n" not in stream.getvalue()
    shown = stream.getvalue().split("\r")
    for number in range(3):
        assert any(f"image {number + 1}/3" in form and f"note {number}\\x1b" in form for form in shown)
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_a_bar_moves_between_two_notes(time: Time) -> None:
    stream = Terminal()
    progress = Progress(total=9, stream=stream)
    progress.show("loss 0.5")
    progress.advance(1)  # too soon to be drawn
    time.now += 1
    progress.advance(1)
    forms = stream.getvalue().split("\r")
    assert "step 2/9" in forms[-1] and "loss 0.5" in forms[-1] and "step 1/9" not in stream.getvalue()
    progress.close()


def test_a_total_that_is_not_known(time: Time) -> None:
    stream = io.StringIO()
    progress = Progress(total=None, unit="MB", stream=stream)
    progress.advance(5)
    progress.show("file")
    assert stream.getvalue() == "MB 5  file\n"


def test_a_bar_is_plain_lines_in_the_transcript(
    time: Time, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar itself is written to the terminal alone."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", Terminal())
    log_to_terminal()
    copy = transcript()
    assert copy is not None
    copy.begin(tmp_path / "log.txt")
    progress = Progress(total=2)
    for _ in range(2):
        time.now += 20
        progress.advance(1, images=1)
        progress.show("loss 0.5")
    progress.close()
    copy.end()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == ["step 1/2  loss 0.5  0 images/s  0:20 left", "step 2/2  loss 0.5  0 images/s  0:00 left"]


def test_importing_progress_does_not_import_the_bar() -> None:
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    assert "\nfrom tqdm" not in source and "\nimport tqdm" not in source


def test_a_resumed_run_counts_on_and_estimates_from_its_own_steps(time: Time) -> None:
    stream = io.StringIO()
    progress = Progress(total=100, done=90, stream=stream)
    time.now += 6
    progress.advance(2, images=64)
    progress.show()
    assert stream.getvalue() == "step 92/100  11 images/s  0:24 left\n"


def test_images_per_second_are_those_since_the_last_call(time: Time) -> None:
    progress = Progress(total=100, stream=io.StringIO())
    assert progress.images_per_second() == 0
    time.now += 2
    progress.advance(1, images=100)
    assert progress.images_per_second() == 50
    assert progress.images_per_second() == 50  # nothing new: the last rate stands
    time.now += 1
    progress.advance(1, images=10)
    assert progress.images_per_second() == 10


def test_close_writes_nothing_where_nothing_was_shown() -> None:
    stream = Terminal()
    Progress(total=3, stream=stream).close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (90.4, "1:30"),
        (3599, "59:59"),
        (3700, "1:01:40"),
        (90000, "25:00:00"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
