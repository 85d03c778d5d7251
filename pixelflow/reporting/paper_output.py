"""A table for publication: a LaTeX table environment with aligned uncertainties, and a snippet for a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pixelflow.files import write_text
from pixelflow.reporting.escaping import latex_text, markdown_code, markdown_text
from pixelflow.reporting.formats import column_headers, markdown_lines, number_text, quoted_number
from pixelflow.reporting.rows import Table, source_numbers
from pixelflow.terminal import one_line

SIUNITX = (
    "uncertainty-mode=separate, retain-zero-uncertainty=true, table-align-uncertainty=false, text-series-to-math=true"
)
"""Shows 4.00 ± 1.41 with equal spaces around the sign, also for a deviation of 0, and in bold as a whole."""
MEASURED = re.compile(r"(-?\d+)(?:\.(\d+))?(?: ± (\d+)(?:\.(\d+))?)?")
"""A number that a column of siunitx aligns: the mean, and the standard deviation."""


def write_paper(table: Table, folder: Path, stem: str) -> list[Path]:
    """Writes `stem.paper.tex` and `stem.readme.md` to a folder.

    Returns:
        The paths of the two files.
    """
    texts = {"paper.tex": paper_latex(table, stem), "readme.md": readme(table, stem)}
    return [write_text(Path(folder) / f"{stem}.{kind}", text) for kind, text in texts.items()]


def paper_latex(table: Table, stem: str) -> str:
    """Returns the table as a LaTeX `table` environment that needs the packages booktabs and siunitx 3.

    Means and standard deviations are aligned in `S` columns. The caption is the first sentence of the question that the
    runs answer, quoted rows follow all measured ones, and the notes follow in small print.

    Args:
        table: The table.
        stem: Its name, from which its label is made.
    """
    shown = [[_number(number_text(row, column)) for column in table.columns] for row in table.rows]
    quoted = [[_number(quoted_number(row, column)) for column in table.columns] for row, _ in table.paper]
    names, numbers = len(table.headers), source_numbers(table.paper)
    formats = [_column([*ours, *theirs]) for ours, theirs in _columns(shown, quoted, len(table.columns))]
    heads = column_headers(table)
    ours = [
        [*map(latex_text, row.values), str(len(row.runs)), *_cells(cells, index, table)]
        for index, (row, cells) in enumerate(zip(table.rows, shown, strict=True))
    ]
    theirs = [
        [f"\\emph{{{latex_text(f'{row.label} [{numbers[row.source]}]')}}}", *[""] * (names - 1), "--", *cells]
        for (row, _), cells in zip(table.paper, quoted, strict=True)
    ]
    label = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "results"
    command = f" by: {one_line(table.command)}" if table.command else ""
    lines = [
        f"% Made on {table.date}{command}",
        "% Needs \\usepackage{booktabs} and \\usepackage{siunitx}, version 3.",
        "\\begin{table}[htbp]",
        "\\centering",
        "\\small\\setlength{\\tabcolsep}{4pt}",
        f"\\sisetup{{{SIUNITX}}}",
        f"\\caption{{{latex_text(_first_sentence(table.question) or f'Results of {stem}.')}}}",
        f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{{'l' * names}r{''.join(formats)}}}",
        "\\toprule",
        _line([*map(latex_text, heads[: names + 1]), *(f"{{{latex_text(head)}}}" for head in heads[names + 1 :])]),
        "\\midrule",
        *map(_line, ours),
        *(["\\midrule"] if theirs else []),
        *map(_line, theirs),
        "\\bottomrule",
        "\\end{tabular}",
        "\\par\\smallskip",
        "{\\footnotesize\\raggedright",
        *(f"{latex_text(note)}\\par" for note in table.notes),
        "}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def readme(table: Table, stem: str) -> str:
    """Returns a snippet for a README: the question, the table with its seeds, the chart, and the command.

    Of the notes only the sources of quoted rows remain.

    Args:
        table: The table.
        stem: The name of the chart's file without its suffix.
    """
    question = [f"**{markdown_text(table.question)}**", ""] if table.question else []
    chart = re.sub(r"[^\w./-]", lambda found: f"%{ord(found.group()):02X}", stem, flags=re.ASCII)
    command = ["", f"Made by {markdown_code(table.command)}."] if table.command else []
    quoted = [f"[{number}] {source}, by its own protocol" for source, number in source_numbers(table.paper).items()]
    sources = ["", f"{markdown_text('; '.join(quoted))}."] if quoted else []
    image = f"![{markdown_text(table.question or stem)}]({chart}.png)"
    return "\n".join([*question, *markdown_lines(table), *sources, "", image, *command]) + "\n"


def _first_sentence(text: str) -> str:
    text = one_line(text)
    found = re.match(r".*?[.?!](?=\s|$)", text)
    return found.group() if found else text


def _columns(
    ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], count: int
) -> Iterable[tuple[list[str], list[str]]]:
    """The cells of each column, of the measured and of the quoted rows."""
    return [([row[index] for row in ours], [row[index] for row in theirs]) for index in range(count)]


def _number(text: str) -> str:
    """A number for a column of siunitx. What it could not read is in braces, and so set as text."""
    if MEASURED.fullmatch(text):
        return text.replace("±", "\\pm")
    return f"{{{latex_text(text)}}}"


def _cells(cells: Sequence[str], index: int, table: Table) -> list[str]:
    """The numbers of a measured row, the best ones in bold."""
    best = [(index, column.key) in table.best for column in table.columns]
    return [f"\\bfseries {cell}" if bold else cell for cell, bold in zip(cells, best, strict=True)]


def _column(cells: Sequence[str]) -> str:
    """An `S` column with room for the digits of all its numbers; a centred column if none is a number."""
    found = [match for cell in cells if (match := MEASURED.fullmatch(cell.replace("\\pm", "±")))]
    if not found:
        return "c"
    whole, places, spread = (max(len(match[group] or "") for match in found) for group in (1, 2, 3))
    uncertainty = max((len(f"{int(match[3] + (match[4] or ''))}") for match in found if match[3]), default=0)
    form = f"{whole}.{places}" + (f"({uncertainty})" if spread else "")
    return f"S[table-format={form}]"


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
