"""The commands and Python examples of the README and of docs/."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Command:
    """A line `$ words` of a console block."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"

    @property
    def overrides(self) -> list[str]:
        """What Hydra composes; empty for a command that is not run.py's or evaluate.py's."""
        scripts = [number for number, word in enumerate(self.words) if word in ("run.py", "evaluate.py")]
        rest = self.words[scripts[0] + 1 :] if scripts else ()
        return [word for word in rest if "=" in word]


def commands(page: Path) -> list[Command]:
    """The commands of a page, without their comments."""
    found = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            found += [Command(page.name, tuple(shlex.split(line, comments=True))) for line in lines]
    return found


def quoted_files(page: Path) -> dict[str, str]:
    """The blocks of a page that have the name of a file as their title, by that name."""
    return dict(re.findall(r'^```\w+ title="(.*?)"\n(.*?)^```$', page.read_text(encoding="utf-8"), re.M | re.S))


def python_examples(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    return [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python"]
