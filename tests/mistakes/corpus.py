"""Reads the lines of cases/*.txt.

A line is `COMMAND => STATUS MESSAGE`. The command holds the arguments of `run.py` as a shell would split them; before
them may stand environment variables and `evaluate.py`. The message is a regular expression that the error must match.
`<LF>`, `<TAB>`, `<ESC>` and `<DEL>` stand for these characters.
An argument `@NAME` or `KEY=@NAME:TEXT` stands for the path of a file that the function NAME in `given` makes. A line
`[KIND]` names the kind of the lines that follow, and `#` begins a comment.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "cases"
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")
FILE = re.compile(r"(|.*?=)@([a-z_]+)(?::(.*))?", re.DOTALL)

CHARACTERS = {"LF": "\n", "TAB": "\t", "ESC": "\x1b", "DEL": "\x7f"}


@dataclass(frozen=True)
class Case:
    """A line of the corpus.

    Args:
        kind: What is wrong: the heading above the line.
        line: The command as it is written.
        status: Exit status that is expected.
        message: Regular expression of the expected message.
    """

    kind: str
    line: str
    status: int
    message: str

    @property
    def words(self) -> list[str]:
        """The command, split."""
        line = self.line
        for name, character in CHARACTERS.items():
            line = line.replace(f"<{name}>", character)
        return shlex.split(line)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that are set before the command."""
        return dict(word.split("=", 1) for word in self.words if VARIABLE.match(word))

    @property
    def program(self) -> str:
        """`run` or `evaluate`."""
        return "evaluate" if "evaluate.py" in self.words else "run"

    @property
    def arguments(self) -> list[str]:
        """The arguments, in which files are not replaced yet."""
        return [word for word in self.words if word != "evaluate.py" and not VARIABLE.match(word)]


def read_corpus(folder: Path = FOLDER) -> list[Case]:
    """Returns the cases of all files, in the order of their names and lines."""
    cases = []
    for path in sorted(folder.glob("*.txt")):
        kind = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.startswith("# "):
                continue
            if heading := re.fullmatch(r"\[(.+)\]", line):
                kind = heading.group(1)
                continue
            command, separator, expected = line.partition(" => ")
            status, _, message = expected.strip().partition(" ")
            if not separator or not status.isdecimal() or not message or not kind:
                raise ValueError(f"{path.name}:{number} is not COMMAND => STATUS MESSAGE below a [KIND]: {line}")
            re.compile(message)
            cases.append(Case(kind, command.strip(), int(status), message.strip()))
    return cases
