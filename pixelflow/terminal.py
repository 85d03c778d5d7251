r"""Text for terminals and logs, in which foreign text cannot act.

Names, messages and captions come from files and servers that others wrote. An escape sequence in them could rewrite the
screen, set the window's title or show a link with another target, and a carriage return could hide what was printed
before it. Everything that the package prints goes through `say`, and its log lines through `VisibleFormatter`: control
characters appear as their escapes (`\x1b`).
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from typing import TextIO

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of the characters that a terminal or an editor obeys instead of showing: control characters,
marks of the writing direction, surrogates (bytes of a file's name that are not UTF-8), and line separators."""
KEPT = "\n\t\u200c\u200d"
"""Exceptions: line ends, tabs, and the joiners that Persian, Indic scripts and emoji need."""


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


def log_to_stderr() -> None:
    """Sends the log records of the package to standard error, as plain lines."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    handler = logging.getLogger().handlers[0]
    handler.setFormatter(VisibleFormatter("%(message)s"))
    handler.addFilter(lambda record: record.name.startswith("pixelflow"))


def _shown(character: str) -> str:
    if character in KEPT or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")
