"""The table for publication, read cell by cell and compiled by LaTeX, and the snippet for a README."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pixelflow.reporting.paper_output import paper_latex, readme, write_paper
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.rows import Table
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import build_table
from tests.unit.reporting.conftest import compile_latex, needs_latex
from tests.unit.reporting.test_escaping import FRAGMENTS, rendered

PAGE = (
    "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage[T1]{fontenc}\\usepackage{lmodern}"
    "\\usepackage{booktabs}\\usepackage{siunitx}\\begin{document}\n%s\\end{document}\n"
)
QUOTED = {
    "label": "PixelFlow",
    "source": "arXiv 2504.07963, Table 1",
    "match": {"k": 4},
    "metrics": {"fid": 3.49, "recall": 0.54},
}


@pytest.fixture
def table(make_run: Callable[..., Run]) -> Table:
    """FID 3 and 5 (mean 4, std sqrt 2), 11 and 13 (12, sqrt 2), and one seed with 2; its recall is not finite."""
    values = {4: [(3.0, 0.5), (5.0, 0.5)], 8: [(11.0, 0.25), (13.0, 0.75)], 16: [(2.0, float("nan"))]}
    runs = [
        make_run({"k": k}, seed, {"fid": fid, "recall": recall})
        for k, seeds in values.items()
        for seed, (fid, recall) in enumerate(seeds)
    ]
    presentation = Presentation(paper=(QUOTED,), question="Which k is best, and why? The runs vary it.")
    return build_table(runs, presentation, command="python run.py job=table", date="2026-01-02")


def body(text: str) -> list[list[str]]:
    """The cells of the lines between the rules."""
    inner = text[text.index("\\toprule") : text.index("\\bottomrule")]
    return [line.removesuffix("\\\\").strip().split(" & ") for line in inner.splitlines() if line.endswith("\\\\")]


def test_every_cell_of_the_latex_table(table: Table) -> None:
    text = paper_latex(table, "k_sweep")
    assert body(text) == [
        ["k", "seeds", "{FID $\\downarrow$}", "{recall $\\uparrow$}"],
        ["4", "2", "4.00 \\pm 1.41", "\\bfseries 0.500 \\pm 0.000"],
        ["8", "2", "12.00 \\pm 1.41", "0.500 \\pm 0.354"],
        ["16", "1", "\\bfseries 2.00", "{nan}"],
        ["\\emph{PixelFlow {[}1]}", "--", "3.49", "0.54"],
    ]
    assert "\\begin{tabular}{lrS[table-format=2.2(3)]S[table-format=1.3(3)]}" in text
    assert "\\caption{Which k is best, and why?}\n\\label{tab:k-sweep}" in text
    rules = [line.split("{")[0] for line in text.splitlines() if line.endswith("rule") or line.startswith("\\emph")]
    assert rules == ["\\toprule", "\\midrule", "\\midrule", "\\emph", "\\bottomrule"]
    notes = text[text.index("\\footnotesize") :]
    assert all(note.split(",")[0].replace("±", "$\\pm$") in notes.replace("{[}", "[") for note in table.notes[:2])


def test_a_table_without_a_question_is_named_after_its_file(make_run: Callable[..., Run]) -> None:
    text = paper_latex(build_table([make_run({}, 0, {"fid": 1.0})]), "50%_{x}")
    assert "\\caption{Results of 50\\%\\_\\{x\\}.}" in text and "\\label{tab:50-x}" in text


def test_a_metric_of_the_paper_alone_has_a_column(make_run: Callable[..., Run]) -> None:
    table = build_table([make_run({"k": k}, 0, {"recall": 0.5}) for k in (4, 8)], Presentation(paper=(QUOTED,)))
    assert "S[table-format=1.2]S[table-format=1.3]" in paper_latex(table, "x")
    assert [line[2] for line in body(paper_latex(table, "x"))[1:]] == ["{--}", "{--}", "3.49"]


def test_the_snippet_has_question_table_chart_and_command_but_no_notes(table: Table) -> None:
    assert readme(table, "k sweep") == (
        "**Which k is best, and why? The runs vary it.**\n"
        "\n"
        "| k | seeds | FID ↓ | recall ↑ |\n"
        "| :-- | --: | --: | --: |\n"
        "| 4 | 2 | 4.00 ± 1.41 | **0.500 ± 0.000** |\n"
        "| *paper: PixelFlow [1]* | – | *3.49* | *0.54* |\n"
        "| 8 | 2 | 12.00 ± 1.41 | 0.500 ± 0.354 |\n"
        "| 16 | 1 | **2.00** | nan |\n"
        "\n"
        "[1] arXiv 2504.07963, Table 1, by its own protocol.\n"
        "\n"
        "![Which k is best, and why? The runs vary it.](k%20sweep.png)\n"
        "\n"
        "Made by `python run.py job=table`.\n"
    )


def test_both_files_are_written(table: Table, tmp_path: Path) -> None:
    paths = write_paper(table, tmp_path, "v1.0")
    assert [path.name for path in paths] == ["v1.0.paper.tex", "v1.0.readme.md"]
    assert [path.read_text() for path in paths] == [paper_latex(table, "v1.0"), readme(table, "v1.0")]


@pytest.fixture
def hostile(make_run: Callable[..., Run]) -> Table:
    """A table in which every text from outside is hostile."""
    runs = [
        make_run({"a|key": text, "=k": f"{text}{i}"}, seed, {"fid": float(i + seed)}, name=text)
        for i, text in enumerate(FRAGMENTS)
        for seed in (0, 1)
    ]
    paper = tuple({"label": text, "source": f"{text} 2025", "metrics": {"fid": 1e-7}} for text in FRAGMENTS)
    presentation = Presentation(paper=paper, question="\\input{canary} 50 % of _x_? $\\frac{")
    return build_table(runs, presentation, command="run.py a=`<script>` `` b=\x1b[2J\nc")


def test_a_hostile_snippet_shows_text_only(hostile: Table) -> None:
    text = readme(hostile, '](x) "<b>')
    assert "\x1b" not in text
    for page in rendered(text):
        assert page.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "code", "strong", "em", "img"}
        assert page.attributes <= {"style", "src", "alt"}


@needs_latex
def test_a_hostile_table_compiles(hostile: Table, tmp_path: Path) -> None:
    """It reads no file and starts no command, although LaTeX is allowed to."""
    (tmp_path / "canary.tex").write_text("\\immediate\\write18{touch ran}\\typeout{READ}")
    (tmp_path / "page.tex").write_text(PAGE % paper_latex(hostile, "a_b%"))
    output = compile_latex(tmp_path, "-shell-escape")
    assert "READ" not in output and not (tmp_path / "ran").exists()


@needs_latex
def test_a_table_of_numbers_compiles(table: Table, tmp_path: Path, request: Any) -> None:
    (tmp_path / "page.tex").write_text(PAGE % paper_latex(table, "k"))
    output = compile_latex(tmp_path)
    assert (tmp_path / "page.pdf").stat().st_size > 1000
    assert not re.search(r"Overfull|undefined|deprecated", output)
