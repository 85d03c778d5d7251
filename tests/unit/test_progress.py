from __future__ import annotations

import io

import pytest

from pixelflow import progress as module
from pixelflow.progress import Progress, clock


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


def test_one_line_that_rewrites_itself_on_a_terminal(time: Time) -> None:
    stream = Terminal()
    progress = Progress(total=3, unit="image", stream=stream)
    for _ in range(3):
        time.now += 2
        progress.advance(1, images=1)
        progress.show()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().split("\r\x1b[2K")[1:] == [
        "image 1/3  0 images/s  0:04 left",
        "image 2/3  0 images/s  0:02 left",
        "image 3/3  0 images/s  0:00 left",
    ]
    progress.close()
    progress.close()
    assert stream.getvalue().endswith("left\n")


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
