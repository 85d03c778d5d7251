"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pixelflow.files import write_text
from pixelflow.metrics.catalogue import MetricInfo
from pixelflow.reporting.axes import MISSING
from pixelflow.reporting.escaping import csv_cell, latex_text, markdown_code, markdown_text
from pixelflow.reporting.paper_rows import PaperRow
from pixelflow.reporting.rows import Row, Table, source_numbers
from pixelflow.reporting.runs import spell
from pixelflow.terminal import one_line

T = TypeVar("T")


@dataclass(frozen=True)
class Text:
    """The content of one cell, before it is written in any format."""

    text: str
    bold: bool = False
    italic: bool = False


def _arranged(table: Table, ours: Callable[[int, Row], T], quoted: Callable[[int, PaperRow], T]) -> tuple[list[T], ...]:
    """Returns the measured rows, each followed by the quoted rows that belong to it, and the other quoted rows.

    `ours` is called with a row and its index, `quoted` with a row and the number of its source, from 1.
    """
    numbers = source_numbers(table.paper)
    numbered = [(numbers[row.source], row, beneath) for row, beneath in table.paper]
    beside = []
    for index, row in enumerate(table.rows):
        beside.append(ours(index, row))
        beside += [quoted(number, row) for number, row, beneath in numbered if beneath == index]
    return beside, [quoted(number, row) for number, row, beneath in numbered if beneath is None]


def text_lines(table: Table) -> tuple[list[list[Text]], ...]:
    """Returns the cells of the measured rows with the quoted rows that belong to them, and of the other quoted rows."""

    def ours(index: int, row: Row) -> list[Text]:
        numbers = [Text(number_text(row, column), bold=(index, column.key) in table.best) for column in table.columns]
        return [*map(Text, row.values), Text(str(len(row.runs))), *numbers]

    def quoted(number: int, row: PaperRow) -> list[Text]:
        first = Text(f"paper: {row.label} [{number}]", italic=True)
        numbers = [Text(quoted_number(row, column), italic=True) for column in table.columns]
        return [first, *[Text("")] * (len(table.headers) - 1), Text(MISSING), *numbers]

    return _arranged(table, ours, quoted)


def number_text(row: Row, column: MetricInfo) -> str:
    """Returns the mean and the standard deviation of a metric as text."""
    cell = row.cells.get(column.key)
    if cell is None:
        return MISSING
    text = f"{cell.mean * column.scale:.{column.decimals}f}"
    if cell.std is not None:
        text += f" ± {cell.std * column.scale:.{column.decimals}f}"
    return text if len(cell.values) == len(row.runs) else f"{text} (n={len(cell.values)})"


def quoted_number(row: PaperRow, column: MetricInfo) -> str:
    """Returns a quoted number with the decimals of its source."""
    return f"{row.metrics[column.key] * column.scale:g}" if column.key in row.metrics else MISSING


def column_headers(table: Table) -> list[str]:
    """Returns the headers of all columns."""
    return [*table.headers, "seeds", *(column.header for column in table.columns)]


def write_table(table: Table, folder: Path, stem: str) -> list[Path]:
    """Writes `stem.md`, `stem.csv` and `stem.tex` to a folder.

    Returns:
        The paths of the three files.
    """
    texts = {"md": markdown(table), "csv": csv_text(table), "tex": latex(table)}
    return [write_text(Path(folder) / f"{stem}.{kind}", text) for kind, text in texts.items()]


# Markdown ----------------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """Returns the table as GitHub Markdown, with its question, date and command above and its notes below."""
    command = f" by {markdown_code(table.command)}" if table.command else ""
    lines = [
        *([markdown_text(table.question), ""] if table.question else []),
        f"Made on {table.date}{command}.",
        "",
        *markdown_lines(table),
        "",
        *(f"- {markdown_text(note)}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def markdown_lines(table: Table) -> list[str]:
    """Returns the lines of the table as GitHub Markdown, without anything above and below it."""
    beside, alone = text_lines(table)
    names = len(table.headers)
    return [
        _markdown_line(map(markdown_text, column_headers(table))),
        _markdown_line([":--"] * names + ["--:"] * (len(column_headers(table)) - names)),
        *(_markdown_line(map(_markdown_cell, line)) for line in beside + alone),
    ]


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Text) -> str:
    mark = "**" if cell.bold else "*" if cell.italic and cell.text != MISSING else ""
    return f"{mark}{markdown_text(cell.text)}{mark}"


# CSV ---------------------------------------------------------------------------------------------------------------


def csv_text(table: Table) -> str:
    """Returns the table as CSV, with full config keys and with metrics in their stored units at full precision.

    `KEY_std` is the standard deviation over seeds, even if the evaluation itself has a metric `KEY_std`. A text that a
    spreadsheet would read as a formula begins with an apostrophe; see `pixelflow.reporting.escaping.csv_cell`.
    """

    def ours(index: int, row: Row) -> list[object]:
        values = [spell(row.setting.config[key]) if key in row.setting.config else "" for key in table.axes]
        counts = row.facts.get("num_samples", ())
        line: list[object] = ["ours", row.label, *values, len(row.runs), "/".join(counts)]
        for column in table.columns:
            cell = row.cells.get(column.key)
            line += [cell.mean, "" if cell.std is None else cell.std, len(cell.values)] if cell else ["", "", 0]
        return [*line, ""]

    def quoted(number: int, row: PaperRow) -> list[object]:
        line: list[object] = ["paper", row.label, *[""] * len(table.axes), "", ""]
        for column in table.columns:
            line += [row.metrics.get(column.key, ""), "", ""]
        return [*line, row.source]

    measures = [f"{column.key}_{part}" for column in table.columns for part in ("mean", "std", "n")]
    beside, alone = _arranged(table, ours, quoted)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    lines: list[list[object]] = [["row", "label", *table.axes, "seeds", "num_samples", *measures, "source"]]
    lines += beside + alone
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return stream.getvalue()


# LaTeX -------------------------------------------------------------------------------------------------------------


def latex(table: Table) -> str:
    """Returns the table as a LaTeX tabular in the style of booktabs, followed by its notes in small print."""
    command = f" by: {one_line(table.command)}" if table.command else ""
    beside, alone = text_lines(table)
    names = len(table.headers)
    lines = [
        f"% Made on {table.date}{command}",
        "% Needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{{'l' * names}{'r' * (len(column_headers(table)) - names)}}}",
        "\\toprule",
        _latex_line(map(latex_text, column_headers(table))),
        "\\midrule",
        *(_latex_line(map(_latex_cell, line)) for line in beside),
        *(["\\midrule"] if alone else []),
        *(_latex_line(map(_latex_cell, line)) for line in alone),
        "\\bottomrule",
        "\\end{tabular}",
        "\\par\\smallskip",
        "{\\footnotesize\\raggedright",
        *(f"{latex_text(note)}\\par" for note in table.notes),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _latex_line(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_cell(cell: Text) -> str:
    text = latex_text(cell.text)
    if cell.bold:
        return f"\\textbf{{{text}}}"
    return f"\\emph{{{text}}}" if cell.italic and cell.text != MISSING else text
