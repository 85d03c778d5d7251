"""Foreign text in tables, parsed by what reads them: the csv module, two Markdown parsers and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import markdown as python_markdown
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pixelflow.reporting.escaping import csv_cell, latex_text, markdown_code, markdown_text
from pixelflow.reporting.formats import csv_text, latex, markdown
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.table import build_table
from pixelflow.terminal import one_line
from tests.unit.reporting.conftest import compile_latex, needs_latex

FRAGMENTS = [
    "=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x","y")', "\t=1", "\r=1", "\n=1", ";=1", "＝1", "'", '"', ",",
    "|", "||", "\\", "\\|", "`", "``", "*", "**", "_", "__", "[x](javascript:alert(1))", "![x](y)", "[x]: javascript:y",
    "[x][y]", "<script>alert(1)</script>", "<b>", "<http://x>", "<!--", "&lt;", "&#106;", "# x", "- x", "1. x", "> x",
    "~~x~~", "$x$", "{: onclick=y }", "{#i}", ":::", "---", "===", "\\input{canary}", "\\write18{touch canary}",
    "\\end{tabular}", "\\csname x\\endcsname", "^^41", "%", "&", "#", "$", "{", "}", "~", "^", "\\\\[9cm]", "[9cm]",
    "?`", "!`", "<<", "--", "''", ",,", "\x1b[2J", "\x1b]8;;http://x\x07", "\x00", "\x7f", "\x85", "\u2028", "\u202e",
    "a", "b c", " ", "1", "é", "«", "ą", "日本", "🙂", "α",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join) | st.text(max_size=30)
COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"])
BEGINS_FORMULA = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
ALLOWED = {"p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code", "strong", "em"}


class Page(HTMLParser):
    """The tags, attributes and texts of a rendered page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.items: list[str] = []
        self._into: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in ("td", "th", "li"):
            self._into = self.cells if tag != "li" else self.items
            self._into.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "li"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data

    def handle_comment(self, data: str) -> None:
        self.tags.add("comment")


def rendered(text: str) -> list[Page]:
    """The page as CommonMark with tables, and as the documentation's Markdown."""
    extensions = ["tables", "attr_list", "admonition", "def_list", "footnotes", "abbr", "md_in_html"]
    return [Page(COMMONMARK.render(text)), Page(python_markdown.markdown(text, extensions=extensions))]


@given(text=HOSTILE)
def test_a_csv_cell_begins_no_formula_and_keeps_the_columns(text: str) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(["ours", csv_cell(text), "end"])
    read = list(csv.reader(io.StringIO(stream.getvalue(), newline="")))
    assert len(read) == 1 and len(read[0]) == 3
    cell = read[0][1]
    assert cell == "-" or re.fullmatch(r"[-+\d.eE]+", cell) or not BEGINS_FORMULA.match(cell)
    # A spreadsheet that divides at semicolons or tabs begins no formula behind them either.
    assert not any(BEGINS_FORMULA.match(part) for part in re.split(r"[;\t]", cell)[1:])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", cell)


@given(
    text=st.text("abcXYZ 0123456789.,:/_()[]{}'\"\n=+-|é日", max_size=30).filter(lambda t: not BEGINS_FORMULA.match(t))
)
def test_a_plain_text_is_unchanged_in_csv(text: str) -> None:
    lines = re.split(r"\n", text)
    if any(BEGINS_FORMULA.match(line) for line in lines):
        return
    assert csv_cell(text) == text


@given(number=st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_number_is_unchanged_in_csv(number: float) -> None:
    assert type(number)(csv_cell(repr(number))) == number
    assert csv_cell(f"{number:+}") == f"{number:+}"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("-", "-"),
        ("-5 dB", "'-5 dB"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@x", "'@x"),
        (" =x", "' =x"),
        ("\t1", "'\t1"),
        ("\r1", "'\\r1"),
        ("a;=x", "a;'=x"),
        ("[-1, 2]", "[-1, 2]"),
        ("-Infinity", "'-Infinity"),
    ],
)
def test_csv_cells(text: str, cell: str) -> None:
    assert csv_cell(text) == cell


@settings(max_examples=300)
@given(text=HOSTILE)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    source = f"| h | k |\n| --- | --- |\n| {markdown_text(text)} | end |\n\n- {markdown_text(text)} end\n"
    for page in rendered(source):
        assert page.tags <= ALLOWED
        assert page.attributes == set()
        assert page.cells[3] == "end"
        assert " ".join(page.cells[2].split()) == one_line(text)
        assert " ".join(page.items[0].split()) == f"{one_line(text)} end".strip()


@given(text=HOSTILE.filter(lambda text: text.strip()))
def test_a_code_span_shows_the_text(text: str) -> None:
    page = Page(COMMONMARK.render(f"by {markdown_code(text)}.").replace("<code>", "<li>").replace("</code>", "</li>"))
    assert page.tags <= {"p", "li"}
    assert page.items == [one_line(text)]


@given(text=HOSTILE)
def test_latex_has_no_command_of_the_text(text: str) -> None:
    result = latex_text(text)
    known = r"\\(text(backslash|asciitilde|asciicircum|asciigrave|less|greater|bar)\{\}|symbol\{34\}|[{}$&#_%])"
    other = r"\{\\ifx\\Umathchar\\undefined\[U\+[0-9A-F]{4,6}\]\\else .\\fi\}"
    rest = re.sub(rf"{known}|{other}|\$\\(pm|uparrow|downarrow|times)\$|\{{[\[*]\}}|(?<=[-',])\{{\}}", "", result)
    assert not re.search(r'[\\{}$&#_%~^`<>|"*\[\x00-\x1f]', rest)
    assert "\n" not in result


@pytest.fixture
def hostile_table(make_run: Any) -> Any:
    """A table in which every text from outside is hostile."""
    runs = [
        make_run({"a|key": text, "=k": f"{text}{i}"}, 0, {"fid": float(i)}, name=text)
        for i, text in enumerate(FRAGMENTS)
    ]
    paper = [
        {"label": text, "source": f"{text} 2025", "metrics": {"fid": 1.0}, "match": {"x": text}} for text in FRAGMENTS
    ]
    lost = make_run({"a|key": "lost", "=k": 0}, 0, {}, name="<img src=x>", state="failed", reason="\x1b[2J# lost\r=1")
    return build_table([*runs, lost], Presentation(paper=tuple(paper)), command="run.py a=`<script>` `` b=\x1b[2J\nc")


def test_a_hostile_table_as_csv(hostile_table: Any) -> None:
    lines = list(csv.reader(io.StringIO(csv_text(hostile_table), newline="")))
    assert len(lines) == 1 + 2 * len(FRAGMENTS)
    assert len({len(line) for line in lines}) == 1
    for cell in (cell for line in lines for cell in line):
        assert not BEGINS_FORMULA.match(cell) or re.fullmatch(r"[+-]\d+", cell)


def test_a_hostile_table_as_markdown(hostile_table: Any) -> None:
    text = markdown(hostile_table)
    assert "\x1b" not in text
    columns = len(hostile_table.headers) + 2
    for page in rendered(text):
        assert page.tags <= ALLOWED
        assert page.attributes <= {"style"}  # the alignment of the columns
        assert len(page.cells) == columns * (1 + 2 * len(FRAGMENTS))
        assert len(page.items) == len(hostile_table.notes)


@needs_latex
def test_a_hostile_table_compiles(hostile_table: Any, tmp_path: Path) -> None:
    """It reads no file and starts no command, although LaTeX is allowed to."""
    (tmp_path / "canary.tex").write_text("\\immediate\\write18{touch ran}\\typeout{READ}")
    (tmp_path / "booktabs.sty").write_text(
        "\\let\\toprule\\hline\\let\\midrule\\hline\\let\\bottomrule\\hline"  # the minimal TeX Live lacks the package
    )
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}"
        f"\\begin{{document}}\n{latex(hostile_table)}\\end{{document}}\n"
    )
    output = compile_latex(tmp_path, "-shell-escape")
    assert "READ" not in output and "canary" not in output.replace("\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "booktabs.sty", "canary.tex", "page.aux", "page.log", "page.pdf", "page.tex",
    ]  # fmt: skip
