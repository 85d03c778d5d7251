import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pixelflow.metrics.catalogue import known_metrics
from pixelflow.reporting.formats import csv_text, latex, markdown, write_table
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.rows import Table
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import build_table

PAPER = {
    "label": "PixelFlow Table 1",
    "source": "arXiv 2504.07963, Table 1",
    "match": {"cascade.kickoff": 8},
    "metrics": {"fid": 3.21, "inception_score": 78.5},
}
RECORD = {"num_samples": 10000, "reference": "held-out", "features": "inception"}


@pytest.fixture
def sweep(make_run: Callable[..., Run]) -> list[Run]:
    """Two settings: FID 3 and 5 (mean 4, std sqrt 2), and 2 with one seed; a third run failed."""

    def run(kickoff: int, seed: int, fid: float, score: float, **changes: Any) -> Run:
        config = {"cascade.kickoff": kickoff, "data.name": "a_b"}
        return make_run(config, seed, {"fid": fid, "inception_score": score}, record=RECORD, **changes)

    failed = run(8, 2, 0.0, 0.0, name="kick-8_2", state="failed", reason="the loss is nan at step 7")
    return [run(16, 0, 2.0, 80.25), run(8, 1, 5.0, 80.0), run(8, 0, 3.0, 90.0), failed]


def test_markdown_of_a_small_sweep(sweep: list[Run]) -> None:
    table = build_table(sweep, Presentation(paper=(PAPER,)), command="python run.py job=table", date="2026-01-02")
    assert markdown(table) == (
        "Made on 2026-01-02 by `python run.py job=table`.\n"
        "\n"
        "| kickoff | seeds | FID-10k ↓ | IS ↑ |\n"
        "| :-- | --: | --: | --: |\n"
        "| 8 | 2 | 4.00 ± 1.41 | **85.0 ± 7.1** |\n"
        "| *paper: PixelFlow Table 1 [1]* | – | *3.21* | *78.5* |\n"
        "| 16 | 1 | **2.00** | 80.2 |\n"
        "\n"
        "- Values are the mean ± the sample standard deviation (n-1) over seeds; "
        "a row with one seed has no standard deviation.\n"
        "- Bold marks the best mean; the difference from the others is not necessarily significant.\n"
        "- Every row was evaluated with num_samples 10000; reference held-out; features inception.\n"
        "- [1] Quoted from arXiv 2504.07963, Table 1, which uses its own protocol: "
        "the values were not measured here and are never marked as best.\n"
        "- Left out: kick-8_2: failed, the loss is nan at step 7.\n"
    )


def test_latex_of_a_small_sweep(sweep: list[Run]) -> None:
    lonely = {**PAPER, "match": None, "label": "50% & more_"}
    table = build_table(sweep, Presentation(paper=(lonely,)), command="python run.py\n-m", date="2026-01-02")
    assert latex(table) == (
        "% Made on 2026-01-02 by: python run.py -m\n"
        "% Needs \\usepackage{booktabs}.\n"
        "\\begin{tabular}{lrrr}\n"
        "\\toprule\n"
        "kickoff & seeds & FID-10k $\\downarrow$ & IS $\\uparrow$ \\\\\n"
        "\\midrule\n"
        "8 & 2 & 4.00 $\\pm$ 1.41 & \\textbf{85.0 $\\pm$ 7.1} \\\\\n"
        "16 & 1 & \\textbf{2.00} & 80.2 \\\\\n"
        "\\midrule\n"
        "\\emph{paper: 50\\% \\& more\\_ {[}1]} & -- & \\emph{3.21} & \\emph{78.5} \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\par\\smallskip\n"
        "{\\footnotesize\\raggedright\n"
        "Values are the mean $\\pm$ the sample standard deviation (n-1) over seeds; "
        "a row with one seed has no standard deviation.\\par\n"
        "Bold marks the best mean; the difference from the others is not necessarily significant.\\par\n"
        "Every row was evaluated with num\\_samples 10000; reference held-out; features inception.\\par\n"
        "{[}1] Quoted from arXiv 2504.07963, Table 1, which uses its own protocol: "
        "the values were not measured here and are never marked as best."
        "\\par\n"
        "Left out: kick-8\\_2: failed, the loss is nan at step 7.\\par\n"
        "}\n"
    )


def test_csv_has_full_precision(sweep: list[Run]) -> None:
    table = build_table(sweep, Presentation(paper=(PAPER,)))
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    eight, paper, sixteen = lines
    assert (eight["row"], eight["cascade.kickoff"], eight["seeds"], eight["num_samples"]) == ("ours", "8", "2", "10000")
    assert (float(eight["fid_mean"]), float(eight["fid_std"]), eight["fid_n"]) == (4.0, math.sqrt(2), "2")
    assert (sixteen["inception_score_mean"], sixteen["inception_score_std"], sixteen["fid_n"]) == ("80.25", "", "1")
    assert (paper["row"], paper["label"], paper["fid_mean"], paper["fid_n"]) == ("paper", PAPER["label"], "3.21", "")
    assert paper["source"] == PAPER["source"]


def test_units_and_arrows(make_run: Callable[..., Run]) -> None:
    metrics = {
        "fid": 3.0, "sfid": 4.0, "inception_score": 80.0, "precision": 0.7824, "recall": 0.5, "fd_digits": 1.5,
        "kid_digits": 0.00123, "kid_digits_std": 1.0, "accuracy": 0.9712, "seconds_per_image": 0.0042, "other": 1.0,
    }  # fmt: skip
    lines = markdown(build_table([make_run({}, 0, metrics)])).splitlines()
    assert lines[2] == (
        "| setting | seeds | FID ↓ | sFID ↓ | IS ↑ | FD (digits CNN) ↓ | KID (digits CNN) [1e-3] ↓ | "
        "precision ↑ | recall ↑ | accuracy [%] ↑ | s/image ↓ |"
    )
    assert lines[4] == "| ours | 1 | 3.00 | 4.00 | 80.0 | 1.50 | 1.23 | 0.782 | 0.500 | 97.1 | 0.0042 |"
    assert len(known_metrics()) == 15
    named = build_table([make_run({"experiment": "quickstart"}, 0, metrics)])
    assert "| quickstart | 1 |" in markdown(named)


def cells_of(table: Table, column: int) -> list[str]:
    rows = [line for line in markdown(table).splitlines() if line.startswith("| ")][2:]
    return [re.split(r"(?<!\\) ?\| ?", row)[column + 1].strip() for row in rows]


def sweep_of(make_run: Callable[..., Run], values: dict[Any, list[float]], key: str = "fid", **changes: Any) -> Table:
    runs = [
        make_run({"k": k}, seed, {key: value}, **changes)
        for k, per_seed in values.items()
        for seed, value in enumerate(per_seed)
    ]
    return build_table(runs)


def test_ties_as_shown_are_all_bold(make_run: Callable[..., Run]) -> None:
    table = sweep_of(make_run, {1: [2.001, 2.003], 2: [1.999], 3: [2.2]})
    assert cells_of(table, 2) == ["**2.00 ± 0.00**", "**2.00**", "2.20"]


def test_the_only_row_is_not_best(make_run: Callable[..., Run]) -> None:
    assert cells_of(sweep_of(make_run, {1: [2.0, 3.0]}), 2) == ["2.50 ± 0.71"]


def test_the_paper_is_never_bold_and_does_not_take_our_bold(sweep: list[Run]) -> None:
    better = {**PAPER, "metrics": {"fid": 1.0}}
    table = build_table(sweep, Presentation(paper=(better,)))
    assert cells_of(table, 2) == ["4.00 ± 1.41", "*1*", "**2.00**"]


def test_a_quoted_row_without_a_row_of_ours_stands_below(sweep: list[Run]) -> None:
    table = build_table(sweep, Presentation(paper=({**PAPER, "match": {"cascade.kickoff": 32}},)))
    assert [cell[:6] for cell in cells_of(table, 0)] == ["8", "16", "*paper"]
    assert any(note.endswith("No measured row has cascade.kickoff=32.") for note in table.notes)


def test_a_diverged_seed_is_not_averaged_away(make_run: Callable[..., Run]) -> None:
    table = sweep_of(make_run, {1: [1.0, math.nan], 2: [2.0, 3.0], 3: [4.0, math.inf], 4: [5.0, 5.0]})
    assert cells_of(table, 2) == ["nan ± nan", "**2.50 ± 0.71**", "nan ± nan", "5.00 ± 0.00"]
    assert "FID of 1-1 is nan, so its row has no mean." in table.notes
    assert "FID of 3-1 is inf, so its row has no mean." in table.notes


def test_a_seed_without_a_metric_is_named(make_run: Callable[..., Run]) -> None:
    runs = [make_run({"k": 1}, seed, {"fid": 2.0} | ({"sfid": 4.0 + seed} if seed else {})) for seed in (0, 1, 2)]
    table = build_table([*runs, make_run({"k": 2}, 0, {"fid": 1.0})])
    assert cells_of(table, 3) == ["5.50 ± 0.71 (n=2)", "–"]
    assert "1-0 has no sFID." in table.notes
    assert "2-0 has no sFID." not in table.notes


def test_unlike_sample_counts_are_said_and_not_compared(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run(
            {"k": k},
            0,
            {"fid": fid, "seconds_per_image": fid},
            record={**RECORD, "num_samples": count, "other_load": 0.0},
        )
        for k, fid, count in ((1, 9.0, 10000), (2, 8.0, 10000), (3, 1.0, 50000))
    ]
    table = build_table(runs)
    assert "FID-10k/50k ↓" in markdown(table)
    assert cells_of(table, 2) == ["9.00", "**8.00**", "1.00"]
    assert cells_of(table, 3)[2] == "**1.0000**"  # time does not depend on it
    expected = "The rows (k) differ in num_samples: 10000 for 1, 2; 50000 for 3."
    assert f"{expected} The best value is marked only among rows that agree in it." in table.notes


@pytest.mark.parametrize(("count", "label"), [(50000, "FID"), (60000, "FID"), (1797, "FID-1797"), (500, "FID-500")])
def test_sample_count_in_the_label(make_run: Callable[..., Run], count: int, label: str) -> None:
    table = build_table([make_run({}, 0, {"fid": 1.0, "recall": 0.5}, record={"num_samples": count})])
    assert [column.label for column in table.columns] == [label, "recall"]


def test_speed_is_compared_on_equal_devices_only(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run(
            {"k": k},
            0,
            {"fid": 1.0 * k, "seconds_per_image": 0.1 * k},
            record={**RECORD, "device": device, "other_load": 0.0},
        )
        for k, device in ((1, "H200"), (2, "A100"))
    ]
    table = build_table(runs)
    assert cells_of(table, 3) == ["0.1000", "0.2000"]
    assert cells_of(table, 2) == ["**1.00**", "2.00"]


def test_seeds_evaluated_unlike_are_named(make_run: Callable[..., Run]) -> None:
    solvers = [{"_target_": "pixelflow.solvers.Euler", "num_steps": steps} for steps in (10, 20)]
    runs = [make_run({"k": 1}, i, {"fid": 1.0}, record={**RECORD, "solver": solvers[i]}) for i in (0, 1)]
    table = build_table([*runs, make_run({"k": 2}, 0, {"fid": 1.0}, record={**RECORD, "solver": solvers[0]})])
    assert "The mean of row 1 combines different evaluations: solver.num_steps 10 and 20." in table.notes
    assert "The rows also differ in solver.num_steps 10 to 20." in table.notes
    assert any("solver euler" in note for note in table.notes if note.startswith("Every row was evaluated with"))


def test_a_seed_without_a_sample_count_is_unlike_the_others(make_run: Callable[..., Run]) -> None:
    runs = [make_run({"k": 1}, 0, {"fid": 1.0}), make_run({"k": 1}, 1, {"fid": 1.0}, record={}, name="bare")]
    notes = build_table(runs).notes
    assert any("combines different evaluations: num_samples 50000 and unknown" in note for note in notes)
    assert "The sample count is not recorded for bare." in notes


def test_what_differs_without_a_column_is_named(make_run: Callable[..., Run]) -> None:
    """A row may differ in more than its column says, and the evaluation need not repeat what the config says."""
    runs = [
        make_run(
            {"k": k, "solver._target_": "a.Euler", "solver.num_steps": k * 10, "trainer.max_steps": k * 100},
            0,
            {"fid": 1.0},
            record={**RECORD, "solver": {"_target_": "a.Euler", "num_steps": k * 10}},
        )
        for k in (1, 2)
    ]
    notes = build_table(runs).notes
    assert [note for note in notes if "differ in" in note] == [
        "The rows also differ in num_steps 10 to 20; max_steps 100 to 200."
    ]


def test_the_distance_of_an_own_extractor_has_a_column(make_run: Callable[..., Run]) -> None:
    runs = [make_run({"k": k}, 0, {"fd_mine": 5.0 - k, "recall": 0.5, "other": 1.0}) for k in (1, 2)]
    table = build_table(runs)
    assert [column.header for column in table.columns] == ["recall ↑", "FD (mine) ↓"]
    assert cells_of(table, 3) == ["4.00", "**3.00**"]


def test_nothing_finished_is_an_error_with_the_reasons(sweep: list[Run]) -> None:
    with pytest.raises(ValueError, match=r"none of 1 runs .* \(kick-8_2: failed, the loss is nan at step 7\)"):
        build_table(sweep[-1:])


def test_unevaluated_runs_are_named(make_run: Callable[..., Run], sweep: list[Run]) -> None:
    table = build_table(
        [*sweep, make_run({"k": 1}, 0, {}, name="new"), make_run({}, 0, {}, name="cut", state="running")]
    )
    assert table.notes[-2:] == ("Left out: new: finished, not evaluated.", "Left out: cut: running.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ""}, r"paper\[0\] has no `source`"),
        ({"metrics": {"fdi": 1.0}}, r"paper\[0\].metrics.fdi is not a known metric; known are fid, sfid"),
        ({"metrics": {"fid": "3.2"}}, r"paper\[0\].metrics.fid='3.2' is not a number"),
    ],
)
def test_malformed_quoted_rows(sweep: list[Run], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_table(sweep, Presentation(paper=({**PAPER, **change},)))


def test_write_replaces_whole_files(sweep: list[Run], tmp_path: Path) -> None:
    table = build_table(sweep)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "v1.0.md").write_text("old")
    paths = write_table(table, tmp_path / "deep", "v1.0")
    assert [path.name for path in paths] == ["v1.0.md", "v1.0.csv", "v1.0.tex"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["v1.0.csv", "v1.0.md", "v1.0.tex"]
    assert [path.read_text() for path in paths] == [markdown(table), csv_text(table), latex(table)]


def test_hostile_text_keeps_the_structure(make_run: Callable[..., Run]) -> None:
    hostile = ["a|b", "*c*", "[0.5]", "50%\nx", "{y}\\z", "~^<&#$_>", "`q`"]
    runs = [make_run({"the|key": text}, 0, {"fid": float(i)}) for i, text in enumerate(hostile)]
    table = build_table(runs)

    rows = [line for line in markdown(table).splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(hostile)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}

    text = latex(table)
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert len(lines) == 1 + len(hostile)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {2}
    assert not re.search(r"(?<!\\)[%#_]|[<>|^~]|\\\\\n\[", body)
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    assert r"\{y\}\textbackslash{}z" in body
    assert r"\textasciitilde{}\textasciicircum{}\textless{}\&\#\$\_\textgreater{}" in body

    assert {line["the|key"] for line in csv.DictReader(io.StringIO(csv_text(table)))} == set(hostile)
