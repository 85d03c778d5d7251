"""The progress of a long job: one line that is updated on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from pixelflow.terminal import visible


class Progress:
    """Prints the progress of a job with its rate and the remaining time.

    Args:
        total: Steps of the job.
        done: Steps that an earlier start of the job completed.
        unit: Name of a step.
        stream: Where to print; by default standard error.
        every: Minimum seconds between two plain lines.
    """

    def __init__(
        self, *, total: int, done: int = 0, unit: str = "step", stream: TextIO | None = None, every: float = 10.0
    ) -> None:
        self.total, self.done, self.unit, self.every = total, done, unit, every
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self._start = self._mark = time.monotonic()
        self._steps = self._images = 0
        self._rate = 0.0
        self._shown = float("-inf")
        self._open = False

    def advance(self, steps: int, *, images: int) -> None:
        """Counts completed steps and their images."""
        self.done += steps
        self._steps += steps
        self._images += images

    def images_per_second(self) -> float:
        """Returns the rate of the images since the last call that counted new ones."""
        now = time.monotonic()
        if self._images and now > self._mark:
            self._rate, self._mark, self._images = self._images / (now - self._mark), now, 0
        return self._rate

    def show(self, note: str = "") -> None:
        """Prints the progress, followed by `note`."""
        now = time.monotonic()
        if not self.live and now - self._shown < self.every and self.done < self.total:
            return
        self._shown = now
        left = (now - self._start) / max(1, self._steps) * (self.total - self.done)
        parts = [f"{self.unit} {self.done}/{self.total}", note, f"{self.images_per_second():.0f} images/s"]
        line = visible("  ".join([*filter(None, parts), f"{clock(left)} left"]))
        if self.live:
            self.stream.write(f"\r\x1b[2K{line}")
            self._open = True
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._open:
            self.stream.write("\n")
            self._open = False


def clock(seconds: float) -> str:
    """Formats seconds as minutes and seconds, with hours where there are any.

    Examples:
        >>> clock(90.4), clock(3700)
        ('1:30', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
