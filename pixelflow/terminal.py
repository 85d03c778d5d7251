r"""Text for terminals and logs, in which foreign text cannot act.

Names, messages and captions come from files and servers that others wrote. An escape sequence in them could rewrite the
screen, set the window's title or show a link with another target, and a carriage return could hide what was printed
before it. Everything that the package prints goes through `say`, and its log lines through `VisibleFormatter`: control
characters appear as their escapes (`\x1b`).

A `Transcript` keeps the same text for the log.txt of a run.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections import deque
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of the characters that a terminal or an editor obeys instead of showing: control characters,
marks of the writing direction, surrogates (bytes of a file's name that are not UTF-8), and line separators."""
KEPT = "\n\t\u200c\u200d"
"""Exceptions: line ends, tabs, and the joiners that Persian, Indic scripts and emoji need."""

MOST_KEPT = 1000
"""Lines that a transcript keeps until it has a file."""


def visible(text: str) -> str:
    r"""Returns a text whose control characters are written as escapes. Line ends and tabs stay.

    Examples:
        >>> visible("a\x1b[2Jb\rc"), visible("two\nlines")
        ('a\\x1b[2Jb\\rc', 'two\nlines')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def one_line(text: str) -> str:
    r"""Returns a text as one line: spaces and line ends become single spaces, control characters escapes.

    Examples:
        >>> one_line(" a\n b\x1b")
        'a b\\x1b'
    """
    return visible(" ".join(text.split()))


def say(text: str = "", *, stream: TextIO | None = None, end: str = "\n") -> None:
    """Prints a text with visible control characters.

    Args:
        text: The text, of one or several lines.
        stream: Where to print; by default standard output.
        end: What follows the text.
    """
    print(visible(text), file=stream or sys.stdout, end=end, flush=True)


def clear_screen() -> None:
    """Clears the terminal; does nothing if standard output is a file or a pipe."""
    if sys.stdout.isatty():
        print("\033[2J\033[H", end="")


class VisibleFormatter(logging.Formatter):
    """Formats log records with visible control characters, and indents all lines of a record but the first.

    A message of several lines can therefore not imitate further records.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return visible(super().format(record)).replace("\n", "\n  ")


class _LineHandler(logging.StreamHandler):
    """Writes log records above a bar of progress."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        bars = sys.modules.get("tqdm")
        with bars.tqdm.external_write_mode(file=self.stream) if bars else nullcontext():
            super().emit(record)


class Transcript(logging.Handler):
    """Writes log records, and what is printed, to the log.txt of a run.

    Until a file is given, the lines are kept. Of a line that was written several times, as a bar of progress is, only
    its last form counts. What a library writes to file descriptors without Python is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._kept: deque[str] = deque(maxlen=MOST_KEPT)
        self._unfinished = ""
        self._file: TextIO | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a log record."""
        self._add_line(self.format(record))

    def add(self, text: str) -> None:
        """Adds printed text, which may be a part of a line."""
        with self.lock:  # type: ignore[union-attr]
            *lines, self._unfinished = (self._unfinished + text).split("\n")
            for line in lines:
                self._add_line(visible(line.rstrip("\r").rpartition("\r")[2]))

    def begin(self, path: Path) -> None:
        """Writes the lines that are kept, and all that follow, to the end of a file.

        Raises:
            OSError: The file cannot be written.
        """
        with self.lock:  # type: ignore[union-attr]
            self.end()
            self._file = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - closed by `end`
            while self._kept:
                self._add_line(self._kept.popleft())

    def end(self) -> None:
        """Closes the file."""
        with self.lock, suppress(OSError):  # type: ignore[union-attr]
            if self._file is not None:
                if self._unfinished:
                    self.add("\n")
                self._file.close()
        self._file = None

    def close(self) -> None:
        """Closes the file; called when the process ends."""
        self.end()
        super().close()

    def restart(self) -> None:
        """Closes the file and forgets what is kept: what follows belongs to another run."""
        self.end()
        self._kept.clear()
        self._unfinished = ""

    def _add_line(self, line: str) -> None:
        if self._file is None:
            self._kept.append(line)
            return
        with suppress(OSError):  # a full disk is reported by what saves
            self._file.write(f"{line}\n")
            self._file.flush()


class _Copied:
    """A stream of the process whose text goes to a transcript as well."""

    def __init__(self, stream: TextIO, transcript: Transcript) -> None:
        self.stream, self.transcript = stream, transcript

    def write(self, text: str) -> int:
        """Writes to both."""
        count = self.stream.write(text)
        self.transcript.add(text)
        return count

    def writelines(self, lines: Any) -> None:
        """Writes to both."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def transcript() -> Transcript | None:
    """Returns the transcript of this process, or None where `log_to_terminal` was not called."""
    return next((handler for handler in logging.getLogger().handlers if isinstance(handler, Transcript)), None)


def uncopied(stream: TextIO) -> TextIO:
    """Returns the stream without its copy in the transcript, for what the transcript holds in another form."""
    return stream.stream if isinstance(stream, _Copied) else stream


def log_to_terminal() -> None:
    """Sends the package's log records to standard error, as plain lines, and begins a transcript of the process."""
    lines, copy = _LineHandler(uncopied(sys.stderr)), Transcript()
    lines.setFormatter(VisibleFormatter("%(message)s"))
    lines.addFilter(lambda record: record.name.startswith("pixelflow"))
    logging.basicConfig(level=logging.INFO, handlers=[lines, copy], force=True)
    sys.stdout, sys.stderr = (_Copied(uncopied(stream), copy) for stream in (sys.stdout, sys.stderr))


def _shown(character: str) -> str:
    if character in KEPT or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")
