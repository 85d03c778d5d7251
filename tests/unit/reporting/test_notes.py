"""The notes below a table: what they state once, and what they must not leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pixelflow.reporting.notes import span
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import build_table
from tests.unit.reporting.test_table import cells_of

RECORD = {"num_samples": 1000, "reference": "digits train", "features": "digits-cnn"}
JIT, PIXELFLOW = "pixelflow.backbones.JiT", "pixelflow.backbones.PixelFlow"


def arm(backbone: str, steps: int, stages: int) -> dict[str, Any]:
    """The config of an arm as the recipes of PixelGen's parts have it."""
    own = {"width": 128, "position_table": True} if backbone == JIT else {"head_dim": 32, "attention_bias": True}
    return {
        "backbone._target_": backbone, "backbone.depth": 4 * stages, **{f"backbone.{k}": v for k, v in own.items()},
        "trainer.max_steps": steps, "cascade.num_stages": stages, "solver.num_stages": stages,
        "solver._target_": "pixelflow.solvers.Euler", "solver.num_steps": 10,
    }  # fmt: skip


def record(steps: int, stages: int) -> dict[str, Any]:
    solver = {"_target_": "pixelflow.solvers.Euler", "num_steps": 10, "num_stages": stages, "weights": None}
    guidance = {"_target_": "pixelflow.flow.ConstantGuidance", "scale": 2.0}
    return RECORD | {"solver": solver, "nfe": 10 * stages, "guidance": guidance, "step": steps, "device": "cpu"}


def test_a_table_of_arms_has_one_line_for_what_is_shared_and_one_for_what_differs(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run(arm(backbone, steps, stages), 0, {"fd_digits": 1.0}, record=record(steps, stages) | {"arm": name})
        for name, backbone, steps, stages in (("jit", JIT, 529, 1), ("cascade", PIXELFLOW, 1069, 2))
    ]
    assert list(build_table(runs).notes)[2:] == [
        "Every row was evaluated with num_samples 1000; reference digits train; features digits-cnn; solver euler "
        "(num_steps 10); guidance constant (scale 2); device cpu.",
        "The rows also differ in backbone pixelflow or jit; num_stages 1 to 2; max_steps 529 to 1069; nfe 10 to 20; "
        "options of backbone.",
    ]


def test_a_column_of_steps_needs_no_note_on_them(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run({"trainer.max_steps": steps}, 0, {"fd_digits": 1.0}, record=RECORD | {"step": steps})
        for steps in (10, 20)
    ]
    assert not any("differ" in note for note in build_table(runs).notes[2:])
    later = [make_run({"trainer.max_steps": k}, 0, {"fd_digits": 1.0}, record=RECORD | {"step": 5}) for k in (10, 20)]
    assert any("step 5" in note for note in build_table(later).notes)


def test_an_option_that_some_rows_lack_is_listed_or_belongs_to_another_class(make_run: Callable[..., Run]) -> None:
    """The interval of a guidance belongs to its class; a key of the same class is named."""
    guidance = {"guidance._target_": "pixelflow.flow.ConstantGuidance", "guidance.scale": 2}
    interval = {"guidance._target_": "pixelflow.flow.IntervalGuidance", "guidance.scale": 3, "guidance.low": 0.1}
    runs = [make_run({"k": k, **config}, 0, {"fid": 1.0}) for k, config in enumerate((guidance, interval))]
    assert build_table(runs).notes[-1] == (
        "The rows also differ in guidance constant or interval; scale 2 to 3; options of guidance."
    )
    runs = [make_run({"k": k, **more}, 0, {"fid": 1.0}) for k, more in enumerate(({}, {"a.b": 0.1}, {"a.b": 0.2}))]
    assert build_table(runs).notes[-1] == "The rows also differ in b 0.1 to 0.2 (not in every row)."


def test_options_of_one_class_are_listed_unless_they_are_many(make_run: Callable[..., Run]) -> None:
    def notes(*names: str) -> str:
        runs = [
            make_run({"k": k, "backbone._target_": JIT, **{f"backbone.{n}": k for n in names}}, 0, {"fid": 1.0})
            for k in (1, 2)
        ]
        return build_table(runs, Presentation(axes=("k",))).notes[-1]

    assert notes("depth", "width") == "The rows also differ in depth 1 to 2; width 1 to 2."
    assert notes("depth", "width", "num_heads", "patch_size") == "The rows also differ in options of backbone."


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (["529", "1069", "605"], "529 to 1069"),
        (["0.1", "-2"], "-2 to 0.1"),
        (["true", "false"], "true or false"),
        (["1", "null"], "1 or null"),
        (["a", "b", "c"], "a, b or c"),
        (list("abcdef"), "a, b, c, d and 2 more"),
        (["7", "7"], "7"),
        (["digits8", "digits16"], "digits8 or digits16"),
    ],
)
def test_span(values: list[str], text: str) -> None:
    assert span(values) == text


def timed(make_run: Callable[..., Run], *loads: float | None) -> list[Run]:
    """One row per load; the time per image grows from row to row."""
    return [
        make_run(
            {"k": k},
            0,
            {"fid": 1.0 + k, "seconds_per_image": 0.1 * (k + 1)},
            record=RECORD | ({} if load is None else {"other_load": load}),
        )
        for k, load in enumerate(loads)
    ]


@pytest.mark.parametrize(
    ("loads", "times", "note"),
    [
        ((0.0, 0.24), ["**0.1000**", "0.2000"], None),
        ((0.9, 0.0), ["0.1000", "0.2000"], "s/image of 0 was measured beside other work (0.9 busy cores) and"),
        ((0.25, 0.9), ["0.1000", "0.2000"], "s/image was measured beside other work (0.25 to 0.9 busy cores) and"),
        ((0.9, 0.1, 0.2), ["0.1000", "**0.2000**", "0.3000"], "s/image of 0 was measured beside other work"),
        ((None, None), ["0.1000", "0.2000"], "s/image is not compared: how much other work the machine did is not"),
        ((None, 0.0), ["0.1000", "0.2000"], "s/image of 0 is not compared"),
    ],
)
def test_times_beside_other_work_are_not_compared(
    make_run: Callable[..., Run], loads: tuple[float | None, ...], times: list[str], note: str | None
) -> None:
    table = build_table(timed(make_run, *loads))
    assert cells_of(table, 3) == times
    assert cells_of(table, 2)[0] == "**1.00**"  # quality does not depend on it
    found = [line for line in table.notes if line.startswith("s/image")]
    assert len(found) == (note is not None) and (note is None or found[0].startswith(note))


def test_one_busy_seed_spoils_the_time_of_its_row(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run({"k": k}, seed, {"fid": 1.0, "seconds_per_image": 0.1}, record=RECORD | {"other_load": load})
        for k, seed, load in ((0, 0, 0.0), (0, 1, 0.5), (1, 0, 0.0), (1, 1, 0.0))
    ]
    table = build_table(runs)
    assert (1, "seconds_per_image") not in table.best and (0, "seconds_per_image") not in table.best
    assert any("s/image of 0 was measured beside other work (0 to 0.5 busy cores)" in note for note in table.notes)


def test_equal_sources_have_one_note(make_run: Callable[..., Run]) -> None:
    paper = [
        {"label": str(k), "source": source, "match": {"k": k}, "metrics": {"fid": 3.0}}
        for k, source in ((1, "A"), (2, "B"), (3, "A"))
    ]
    table = build_table([make_run({"k": k}, 0, {"fid": 1.0}) for k in (1, 2)], Presentation(paper=tuple(paper)))
    assert [cell for cell in cells_of(table, 0) if "paper" in cell] == [
        "*paper: 1 [1]*",
        "*paper: 2 [2]*",
        "*paper: 3 [1]*",
    ]
    quoted = [note for note in table.notes if "Quoted" in note]
    assert [note[:18] for note in quoted] == ["[1] Quoted from A,", "[2] Quoted from B,"]
    assert quoted[0].endswith("are never marked as best. No measured row has k=3.")
