"""The progress of a long job: a bar of tqdm on a terminal, plain lines elsewhere and in log.txt."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, TextIO

from pixelflow.terminal import transcript, uncopied, visible

REDRAW = 0.2
"""Minimum seconds between two forms of a bar."""
COLUMNS = 100
"""Width of a bar on a terminal that does not state its own."""


class Progress:
    """Prints the progress of a job with its rate and the remaining time.

    Args:
        total: Steps of the job; None if that is not known.
        done: Steps that an earlier start of the job completed.
        unit: Name of a step.
        stream: Where to print; by default standard error.
        every: Minimum seconds between two plain lines.
    """

    def __init__(
        self, *, total: int | None, done: int = 0, unit: str = "step", stream: TextIO | None = None, every: float = 10.0
    ) -> None:
        self.total, self.done, self.unit, self.every = total, done, unit, every
        self.stream = uncopied(sys.stderr if stream is None else stream)
        self.live = self.stream.isatty()
        self._start = self._mark = time.monotonic()
        self._steps = self._images = 0
        self._rate: float | None = None
        self._shown = self._drawn = float("-inf")
        self._bar: Any = None
        self._note = self._said = ""

    def advance(self, steps: int, *, images: int = 0) -> None:
        """Counts completed steps and their images."""
        self.done += steps
        self._steps += steps
        self._images += images
        if self._bar is not None and time.monotonic() - self._drawn >= REDRAW:
            self._draw()

    def images_per_second(self) -> float:
        """Returns the rate of the images since the last call that counted new ones."""
        now = time.monotonic()
        if self._images and now > self._mark:
            self._rate, self._mark, self._images = self._images / (now - self._mark), now, 0
        return self._rate or 0.0

    def show(self, note: str = "") -> None:
        """Prints the progress, followed by `note`."""
        now = time.monotonic()
        due = now - self._shown >= self.every or self.done == self.total
        drawn = self.live and (now - self._drawn >= REDRAW or self.done == self.total or note != self._said)
        if not due and not drawn:
            return
        rate, self._said = self.images_per_second(), note
        self._note = "  ".join(filter(None, [visible(note), "" if self._rate is None else f"{rate:.0f} images/s"]))
        if drawn:
            self._draw()
        if due:
            self._shown = now
            if not self.live:
                self.stream.write(self._line(now) + "\n")
                self.stream.flush()
            if (copy := transcript()) is not None:
                copy.add(self._line(now) + "\n")

    def _line(self, now: float) -> str:
        if self.total is None:
            return "  ".join(filter(None, [f"{self.unit} {self.done}", self._note]))
        left = (now - self._start) / max(1, self._steps) * (self.total - self.done)
        parts = [f"{self.unit} {self.done}/{self.total}", self._note, f"{clock(left)} left"]
        return "  ".join(filter(None, parts))

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._bar is None:
            from tqdm import tqdm  # not before a terminal shows it

            quiet = type("Bar", (tqdm,), {"monitor_interval": 0})  # without a thread
            count = "{n_fmt}" if self.total is None else "{n_fmt}/{total_fmt} {bar:20}"
            left = "" if self.total is None else "  {remaining} left"
            self._bar = quiet(
                total=self.total, initial=self.done - self._steps, unit=self.unit, file=self.stream,
                ncols=COLUMNS, dynamic_ncols=_has_columns(self.stream),
                bar_format=f"{self.unit} {count} {{desc}}{left}",
            )  # fmt: skip
        self._bar.set_description_str(self._note, refresh=False)
        self._bar.n = self.done
        self._bar.refresh()

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _has_columns(stream: TextIO) -> bool:
    """Returns whether a terminal states its width; in containers some do not."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def clock(seconds: float) -> str:
    """Formats seconds as minutes and seconds, with hours where there are any.

    Examples:
        >>> clock(90.4), clock(3700)
        ('1:30', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
