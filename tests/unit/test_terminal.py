"""What is printed and logged: control characters are shown and do nothing."""

from __future__ import annotations

import io
import logging
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelflow.progress import Progress
from pixelflow.terminal import (
    Transcript,
    VisibleFormatter,
    clear_screen,
    log_to_terminal,
    one_line,
    say,
    transcript,
    visible,
)

SEQUENCES = [
    "\x1b[2J",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\r",
    "\x9b2J",
    "\b",
    "\x7f",
    "\u202e",
    "\u2028",
]


@given(text=st.text() | st.lists(st.sampled_from([*SEQUENCES, "a", "\udcff"])).map("".join))
def test_no_control_character_is_left(text: str) -> None:
    result = visible(text)
    kinds = {unicodedata.category(character) for character in result if character not in "\n\t\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    result.encode("utf-8")
    assert "\n" not in one_line(text) and "\t" not in one_line(text)


@given(text=st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_a_plain_text_is_unchanged(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_say_and_progress_print_escapes(sequence: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"one {sequence}\ntwo")
    out = capsys.readouterr().out
    assert sequence not in out and out.startswith("one \\") and out.endswith("\ntwo\n")
    stream = io.StringIO()
    Progress(total=1, stream=stream).show(sequence)
    assert sequence not in stream.getvalue()


def test_a_file_name_that_is_not_utf8_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say(b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert capsys.readouterr().out == "caf\\udce9\n"


def test_log_lines_cannot_be_imitated() -> None:
    record = logging.LogRecord(
        "pixelflow", logging.INFO, "", 0, "class %s", ("a\x1b[2J\n2026-01-01 INFO x: fake",), None
    )
    text = VisibleFormatter("%(levelname)s %(message)s").format(record)
    assert text == "INFO class a\\x1b[2J\n  2026-01-01 INFO x: fake"


def begin_command(monkeypatch: pytest.MonkeyPatch) -> Transcript:
    """Begins the output of a command. Not a fixture: pytest sets sys.stdout anew before a test is called."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    log_to_terminal()
    copy = transcript()
    assert copy is not None
    return copy


def test_the_log_on_stderr_shows_escapes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    begin_command(monkeypatch)
    logging.getLogger("pixelflow.x").warning("run %s", "\x1b[2Jname")
    logging.getLogger("urllib3").warning("not ours")
    assert capsys.readouterr().err == "run \\x1b[2Jname\n"


def test_the_transcript_holds_what_the_terminal_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = begin_command(monkeypatch)
    logging.getLogger("pixelflow.x").info("before the run")
    say("a table")
    command.begin(tmp_path / "log.txt")
    print("x.py:3: UserWarning: a warning", file=sys.stderr)
    logging.getLogger("pixelflow.x").info("in the run")
    print("  5 %\r100 %\x1b", file=sys.stderr)
    print("unfinished", end="")
    command.end()
    shown = capsys.readouterr()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[0].endswith(" INFO pixelflow.x: before the run") and lines[1] == "a table"
    assert "UserWarning: a warning" in lines[2] and any(line.endswith("pixelflow.x: in the run") for line in lines)
    assert lines[-2:] == ["100 %\\x1b", "unfinished"]
    assert shown.out == "a table\nunfinished" and "before the run\n" in shown.err and "UserWarning" in shown.err
    assert sum("in the run" in line for line in lines) == 1


def test_the_transcript_of_the_next_run_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = begin_command(monkeypatch)
    command.begin(tmp_path / "one")
    say("one")
    command.restart()
    say("two")
    command.begin(tmp_path / "two")
    assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("one\n", "two\n")


def test_a_log_line_stands_above_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    begin_command(monkeypatch)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(logging.getLogger().handlers[0], "stream", terminal)
    progress = Progress(total=9, stream=terminal)
    progress.show()
    logging.getLogger("pixelflow.x").warning("returned to step 3")
    progress.close()
    assert re.search(r"\r *\rreturned to step 3\n", terminal.getvalue())


def test_the_screen_is_cleared_on_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    clear_screen()
    assert capsys.readouterr().out == ""
