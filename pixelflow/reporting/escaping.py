"""Foreign text in tables: names, labels, messages and config values appear in them as text and have no other effect."""

from __future__ import annotations

import re

from pixelflow.terminal import one_line, visible

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
FORMULA = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@\t\r＝＋－＠])")
"""Where a spreadsheet would begin to read a formula: at the start of a cell, and behind the characters at which some
spreadsheets divide a line. The full-width characters count as well, because Japanese versions read them so."""

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    # In these four places LaTeX's default font encoding has other characters.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    # At the start of a line, LaTeX would read these two as arguments of the \\ before it.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "–": "--",
}
PDFLATEX = frozenset({*map(chr, range(0xA0, 0x100)), *"—‘’“”…"} - set("«»ÐÞðþ"))
"""Characters beyond ASCII that pdfLaTeX shows in its default font encoding. Others end it with an error."""
MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;", "$": "&#36;"}
"""Characters that Python-Markdown, unlike CommonMark, does not accept behind a backslash."""


def csv_cell(text: str) -> str:
    r"""Returns a text as the content of a CSV cell that no spreadsheet evaluates.

    A text that a spreadsheet would read as a formula begins with an apostrophe, which is OWASP's rule. Numbers and a
    lone minus sign stay as they are. The caller quotes the cell, with `csv.writer`.

    Examples:
        >>> [csv_cell(text) for text in ("=1+1", "-0.5", "+1e3", "-", "-5 dB", "a = b")]
        ["'=1+1", '-0.5', '+1e3', '-', "'-5 dB", 'a = b']
    """
    if text == "-" or NUMBER.fullmatch(text):
        return text
    return visible(FORMULA.sub(r"\1'", text))


def markdown_text(text: str) -> str:
    r"""Returns a text as one line of Markdown that shows it and nothing else, also in a cell of a table.

    Examples:
        >>> markdown_text("<b> *x* | [a](javascript:b)")
        '&lt;b&gt; \\*x\\* \\| [a\\](javascript:b)'
    """
    text = re.sub(r"[&<>~$]", lambda found: MARKDOWN[found.group()], one_line(text))
    # A bracket alone is no link, and an underscore within a word is no emphasis: lists and config keys stay readable.
    text = re.sub(r"[\\|*`{}]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    # What begins a heading, a list or a line in an item of a list. A number is escaped behind its digits.
    return re.sub(r"^(?:(\d+)(?=[.)](?:\s|$))|(?=#|[+-]\s|-[- ]+$))", r"\1\\", text)


def markdown_code(text: str) -> str:
    """Returns a text as a code span of Markdown, in as many backticks as it needs."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def latex_text(text: str) -> str:
    r"""Returns a text as one line of LaTeX without commands, for any place but a verbatim environment.

    pdfLaTeX cannot show most characters beyond Latin-1. It shows their number instead, XeLaTeX and LuaLaTeX themselves.

    Examples:
        >>> latex_text(r"50 % \input{x}")
        '50 \\% \\textbackslash{}input\\{x\\}'
    """
    return re.sub(r"([-',])(?=\1)|.", _in_latex, one_line(text))


def _in_latex(found: re.Match[str]) -> str:
    """A character as LaTeX; the braces separate characters that LaTeX would join to another one."""
    character = found.group()
    if found.group(1):
        return character + "{}"
    if character.isascii() or character in LATEX or character in PDFLATEX:
        return LATEX.get(character, character)
    return rf"{{\ifx\Umathchar\undefined[U+{ord(character):04X}]\else {character}\fi}}"
