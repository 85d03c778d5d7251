"""Rows that a recipe names, and columns that a table of such rows still needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from pixelflow.reporting.axes import DEFAULT_IGNORE, choose_axes, followers
from pixelflow.reporting.formats import markdown
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import build_table
from tests.unit.reporting.test_table import cells_of

RECORD = {"num_samples": 1000, "reference": "digits train", "features": "digits-cnn"}
JIT, PIXELFLOW = "pixelflow.backbones.JiT", "pixelflow.backbones.PixelFlow"


def runs_of(make_run: Callable[..., Run], *rows: tuple[str | None, dict[str, Any]]) -> list[Run]:
    """One run for each arm with its config; the metric is the number of the row."""
    return [
        make_run(config, 0, {"fd_digits": float(n)}, record=RECORD | ({"arm": arm} if arm else {}), name=f"run-{n}")
        for n, (arm, config) in enumerate(rows)
    ]


def test_rows_with_arms_have_one_column_in_the_order_of_the_sweep(make_run: Callable[..., Run]) -> None:
    rows = [("x", {"k": 1, "s": 2}), ("velocity", {"k": 2, "s": 1}), ("x perceptual", {"k": 3, "s": 3})]
    listed = ("velocity", "x", "x perceptual")
    table = build_table(runs_of(make_run, *rows), Presentation(arms=listed, swept=("k", "s")))
    assert table.headers == ("setting",) and table.axes == ("arm",)
    assert cells_of(table, 0) == list(listed)
    backward = build_table(runs_of(make_run, *rows), Presentation(arms=listed[::-1]))
    assert cells_of(backward, 0) == list(listed[::-1])
    unknown = build_table(runs_of(make_run, *rows, ("x 10", {"k": 4}), ("x 9", {"k": 5})))
    assert cells_of(unknown, 0) == ["velocity", "x", "x 9", "x 10", "x perceptual"]  # natural order


def test_rows_with_equal_arms_are_told_apart_by_what_is_swept(make_run: Callable[..., Run]) -> None:
    rows = [(arm, {"long.name.steps": k, "a": k, "b": arm}) for arm in ("one", "two") for k in (100, 200)]
    table = build_table(runs_of(make_run, *rows), Presentation(swept=("long.name.steps",)))
    assert table.axes == ("arm", "long.name.steps")
    assert [cells_of(table, column) for column in (0, 1)] == [
        ["one", "one", "two", "two"],
        ["100", "200", "100", "200"],
    ]
    named = build_table(runs_of(make_run, *rows), Presentation(axes=("a", "b")))
    assert named.axes == ("arm", "a", "b")


def test_the_arm_of_the_evaluation_counts_since_arms_may_share_a_training(make_run: Callable[..., Run]) -> None:
    shared = {"arm": "first", "depth": 4}
    runs = [
        make_run(shared | {"guidance.scale": scale}, 0, {"fid": scale}, record=RECORD | arm)
        for scale, arm in ((1.0, {}), (2.0, {"arm": "second"}))
    ]
    assert [run.arm for run in runs] == ["first", "second"]
    assert cells_of(build_table(runs), 0) == ["first", "second"]


def test_a_row_is_named_by_its_newest_run_and_seeds_of_two_arms_are_one_row(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run({"k": 1}, seed, {"fid": 1.0}, record=RECORD | {"arm": arm, "time": time})
        for seed, arm, time in ((0, "renamed", 20.0), (1, "old name", 10.0))
    ]
    table = build_table([*runs, make_run({"k": 2}, 0, {"fid": 2.0})])
    assert cells_of(table, 0) == ["–", "renamed"] and [len(row.runs) for row in table.rows] == [1, 2]


def test_a_single_row_is_named_after_its_arm(make_run: Callable[..., Run]) -> None:
    assert cells_of(build_table(runs_of(make_run, ("jit x", {"experiment": "e"}))), 0) == ["jit x"]


def test_a_number_may_be_an_arm(make_run: Callable[..., Run]) -> None:
    runs = [make_run({"arm": k, "k": k}, 0, {"fid": 1.0}) for k in (8, 16)]  # config.yaml may hold `arm: 8`
    assert cells_of(build_table(runs), 0) == ["8", "16"]


def test_the_rows_of_old_folders_are_as_before(make_run: Callable[..., Run]) -> None:
    runs = [make_run({"backbone._target_": b, "w": w}, 0, {"fid": 1.0}) for b in (JIT, PIXELFLOW) for w in (0, 0.1)]
    table = build_table(runs, Presentation(swept=("backbone._target_", "w")))
    assert table.headers == ("backbone", "w")
    assert [row.label for row in table.rows] == ["jit | 0", "jit | 0.1", "pixelflow | 0", "pixelflow | 0.1"]


def test_several_experiments_are_the_first_column(make_run: Callable[..., Run]) -> None:
    rows = [("b", "jit", 1), ("b", "pixelflow", 2), ("a", "jit", 1)]
    runs = [make_run({"experiment": e, "arm": arm, "k": k}, 0, {"fid": 1.0 * k}, record=RECORD) for e, arm, k in rows]
    ignore = [key for key in DEFAULT_IGNORE if key != "experiment"]
    table = build_table(runs, ignore=ignore)
    assert table.headers == ("experiment", "setting")
    assert [row.values for row in table.rows] == [("a", "jit"), ("b", "jit"), ("b", "pixelflow")]
    assert cells_of(table, 3) == ["**1.00**", "**1.00**", "2.00"]


STAGES = [
    {"cascade.num_stages": n, "solver.num_stages": n, "guidance.num_stages": n, "solver.num_steps": 10} for n in (1, 2)
]


@pytest.mark.parametrize(
    ("configs", "leaders", "found"),
    [
        (STAGES, [], {"solver.num_stages", "guidance.num_stages"}),
        (STAGES, ["solver.num_stages"], {"cascade.num_stages", "guidance.num_stages"}),
        # Some guidances have no stages.
        ([*STAGES, {"cascade.num_stages": 3}], [], {"solver.num_stages", "guidance.num_stages"}),
        # Two keys of one section, another name or another value are other settings.
        ([{"o.terms.a.weight": w, "o.terms.b.weight": w} for w in (1, 2)], [], set()),
        ([{"a.n": n, "b.m": n} for n in (1, 2)], [], set()),
        ([{"a.n": 1, "b.n": 1}, {"a.n": 2, "b.n": 3}], [], set()),
        ([{"a.n": 1, "b.n": 1}, {"a.n": 1, "b.n": 1}], [], set()),
        ([{"a._target_": n, "b._target_": n} for n in "xy"], [], set()),
        ([{"n": n, "b.n": n} for n in (1, 2)], [], {"n"}),
    ],
)
def test_followers(configs: list[dict[str, Any]], leaders: list[str], found: set[str]) -> None:
    assert followers(configs, leaders) == found
    assert followers(configs[::-1], leaders) == found


def test_followers_are_neither_columns_nor_notes(make_run: Callable[..., Run]) -> None:
    assert choose_axes(STAGES) == ["cascade.num_stages"]
    assert choose_axes(STAGES, ["solver.num_stages"]) == ["solver.num_stages"]
    table = build_table([make_run(config, 0, {"fid": 1.0}, record=RECORD) for config in STAGES])
    assert table.headers == ("num_stages",)
    assert not any("differ in" in note for note in table.notes)


def test_every_cell_of_a_table_of_numbers(make_run: Callable[..., Run]) -> None:
    """The distances and accuracies of digits_pixelgen, against sums on paper: (a + b) / 2 and |a - b| / sqrt 2."""
    measured = {
        "jit velocity": ([0.68, 0.56], [0.9965, 0.9955]),
        "jit x": ([0.52, 0.42], [0.9975, 0.9945]),
        "pixelflow velocity": ([0.467, 0.453], [0.989, 0.989]),
    }
    runs = [
        make_run({"arm": arm}, seed, {"fd_digits": fd, "accuracy": accuracy}, record=RECORD | {"arm": arm})
        for arm, (fds, accuracies) in measured.items()
        for seed, (fd, accuracy) in enumerate(zip(fds, accuracies, strict=True))
    ]
    # The arms are names alone, so the settings differ by a key.
    runs = [Run(**{**vars(run), "config": run.config | {"k": run.config["arm"]}}) for run in runs]
    table = build_table(runs, Presentation(question="Which part helps?"), date="2026-01-02")
    assert markdown(table).splitlines()[:7] == [
        "Which part helps?",
        "",
        "Made on 2026-01-02.",
        "",
        "| setting | seeds | FD (digits CNN) ↓ | accuracy [%] ↑ |",
        "| :-- | --: | --: | --: |",
        "| jit velocity | 2 | 0.62 ± 0.08 | **99.6 ± 0.1** |",
    ]
    assert cells_of(table, 2) == ["0.62 ± 0.08", "0.47 ± 0.07", "**0.46 ± 0.01**"]
    assert cells_of(table, 3) == ["**99.6 ± 0.1**", "**99.6 ± 0.2**", "98.9 ± 0.0"]
    assert table.rows[0].cells["fd_digits"].std == pytest.approx(0.12 / 2**0.5)
    assert table.rows[1].cells["accuracy"].mean == pytest.approx(statistics.mean([0.9975, 0.9945]))


@pytest.mark.parametrize("value", [1.0, math.nan])
def test_arms_with_one_evaluation_are_rows_of_their_own(make_run: Callable[..., Run], value: float) -> None:
    run = make_run({"k": 1, "experiment": "owner"}, 0, {"fid": value}, record=RECORD | {"time": 5.0})
    other = make_run({"k": 2, "experiment": "recipe"}, 0, {"fid": 2.0}, record=RECORD | {"arm": "third", "time": 6.0})
    table = build_table([run.of_recipe("recipe", "equal images"), run.of_recipe("recipe", "equal FLOPs"), other])
    assert sorted(row.values[0] for row in table.rows) == ["equal FLOPs", "equal images", "third"]


def test_a_result_of_a_recipe_without_arms_has_none(make_run: Callable[..., Run]) -> None:
    """Although the training was that of another recipe's arm."""
    run = make_run({"k": 1, "experiment": "owner", "arm": "owner's"}, 0, {"fid": 1.0}).of_recipe("recipe", None)
    assert run.arm is None
    assert cells_of(build_table([run]), 0) == ["recipe"]
