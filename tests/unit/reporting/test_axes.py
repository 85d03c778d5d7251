import itertools
from collections.abc import Callable
from typing import Any

import pytest

from pixelflow.reporting.axes import axis_headers, axis_values, choose_axes, group, natural
from pixelflow.reporting.runs import Run

VELOCITY, X = "pixelflow.flow.VelocityPrediction", "pixelflow.flow.XPrediction"


def test_seeds_are_grouped_and_machine_keys_ignored(make_run: Callable[..., Run]) -> None:
    runs = [
        make_run({"lr": lr, "data.seed": seed, "tracking.uri": f"{lr}{seed}", "job.name": seed}, seed, {"fid": 1.0})
        for lr, seed in itertools.product((1, 2), (0, 1, 2))
    ]
    settings, notes = group(runs)
    assert [(setting.config, [run.seed for run in setting.runs]) for setting in settings] == [
        ({"lr": 1}, [0, 1, 2]),
        ({"lr": 2}, [0, 1, 2]),
    ]
    assert notes == []


def test_what_differs_is_never_merged(make_run: Callable[..., Run]) -> None:
    variants: list[dict[str, Any]] = [{"a": 1}, {"a": "x"}, {"a": None}, {}, {"a": True}, {"a": [1]}, {"a": "[1"}]
    # `jobs` only begins like an ignored key, and data.seed is not always the seed.
    variants += [{"jobs": 1}, {"jobs": 2}, {"data.seed": 0}, {"data.seed": 5}]
    settings, _ = group([make_run(variant, 0, {"fid": 1.0}) for variant in variants])
    assert [setting.config for setting in settings] and len(settings) == len(variants)


def test_ignored_keys_are_the_callers(make_run: Callable[..., Run]) -> None:
    runs = [make_run({"a.b": value, "job.c": 0}, value, {"fid": 1.0}) for value in (1, 2)]
    assert len(group(runs)[0]) == 2
    ((setting,), _) = group(runs, ignore=["a"])
    assert setting.config == {"job.c": 0}


def test_a_repeated_seed_counts_once_and_is_named(make_run: Callable[..., Run]) -> None:
    new = make_run({"a": 1}, 0, {"fid": 2.0}, name="new", record={"time": 20.0})
    old = make_run({"a": 1}, 0, {"fid": 1.0}, name="old", record={"time": 10.0})
    ((setting,), notes) = group([new, old, make_run({"a": 1}, 1, {"fid": 3.0}, record={"time": 15.0})])
    assert [run.metrics["fid"] for run in setting.runs] == [2.0, 3.0]
    assert notes == ["Left out: old, which has the same setting and seed as new and was evaluated earlier."]


@pytest.mark.parametrize(
    ("configs", "wanted", "expected"),
    [
        # What changes together needs one key: words before class paths, short ones first.
        ([{"p._target_": "a.V", "kickoff": 4}, {"p._target_": "a.X", "kickoff": 8}], [], ["kickoff"]),
        ([{"c.kickoff": k, "c.num_stages": s, "b": 1} for k, s in ((4, 3), (8, 2))], [], ["c.kickoff"]),
        # The caller's keys come first, and stay although one would do.
        ([{"k": 4, "long.s": 3}, {"k": 8, "long.s": 2}], ["long.s", "b"], ["long.s"]),
        ([{"k": 4, "long.s": 3}, {"k": 8, "long.s": 3}], ["long.s"], ["k"]),
        # Two real axes.
        ([{"k": k, "s": s, "k2": k} for k in (4, 8) for s in (1, 2)], [], ["k", "s"]),
        # A key that only some have.
        ([{"k": 4}, {"k": 4, "scale": 2}], [], ["scale"]),
        ([{"k": 4}, {"k": 4, "scale": None}], [], ["scale"]),
        ([{"k": 4}], [], []),
        # `c` has most values; `a` adds nothing to it, `b` the rest.
        (
            [{"a": 0, "b": 0, "c": 0}, {"a": 0, "b": 1, "c": 1}, {"a": 1, "b": 0, "c": 2}, {"a": 1, "b": 1, "c": 2}],
            [],
            ["b", "c"],
        ),
    ],
)  # fmt: skip
def test_axes_tell_all_rows_apart(configs: list[dict[str, Any]], wanted: list[str], expected: list[str]) -> None:
    assert choose_axes(configs, wanted) == expected
    assert choose_axes(configs[::-1], wanted) == expected


def test_axes_have_no_superfluous_key_in_any_small_table() -> None:
    """By brute force: every set of distinct rows over three binary keys, and their parity as a fourth."""
    points = [{"a": a, "bb": b, "ccc": c, "d": (a + b + c) % 2} for a, b, c in itertools.product((0, 1), repeat=3)]
    for size in range(1, 6):
        for configs in itertools.combinations(points, size):
            axes = choose_axes(configs)

            def apart(keys: list[str], configs: Any = configs) -> bool:
                return len({tuple(config[key] for key in keys) for config in configs}) == len(configs)

            assert apart(axes)
            assert not any(apart([other for other in axes if other != key]) for key in axes)


def test_headers_are_the_shortest_that_differ() -> None:
    assert axis_headers(["cascade.kickoff", "prediction._target_"]) == ["kickoff", "prediction"]
    assert axis_headers(["a.scale", "b.scale", "c.x"]) == ["a.scale", "b.scale", "x"]
    assert axis_headers(["x.a.scale", "y.a.scale", "scale"]) == ["x.a.scale", "y.a.scale", "scale"]


def test_values_are_shown_short_but_distinct() -> None:
    assert axis_values([{"p._target_": VELOCITY}, {"p._target_": X}], "p._target_") == [
        "velocity",
        "x",
    ]
    assert axis_values([{"p._target_": "a.X"}, {"p._target_": "b.X"}], "p._target_") == ["a.X", "b.X"]
    shown = axis_values([{"k": 8}, {"k": 1e-05}, {"k": None}, {"k": True}, {"k": [0.9, 1]}, {"k": "a.b"}, {}], "k")
    assert shown == ["8", "1e-05", "null", "true", "[0.9, 1]", "a.b", "–"]


def test_natural_order() -> None:
    values = [None, -1, 0.5, 2, 10, "[1, 2]", "digits8", "digits16", "s"]
    for order in (values[::-1], values[3:] + values[:3]):
        assert sorted(order, key=lambda value: natural([value])) == values
    assert natural([8, "b"]) < natural([16, "a"])


def test_a_swept_group_is_a_column_of_its_options() -> None:
    """Rather than a key that only one of its options has."""
    constant = {"guidance._target_": "pixelflow.flow.ConstantGuidance"}
    stage_wise = {"guidance._target_": "pixelflow.flow.StageWiseGuidance", "guidance.weights": None}
    configs = [{**option, "guidance.scale": scale} for option in (constant, stage_wise) for scale in (1.5, 2.0)]
    axes = choose_axes(configs, ["guidance", "guidance.scale"], ["guidance", "guidance.scale"])
    assert axes == ["guidance._target_", "guidance.scale"]
    assert axis_headers(axes) == ["guidance", "scale"]
    assert axis_values(configs, axes[0]) == ["constant", "constant", "stage_wise", "stage_wise"]
