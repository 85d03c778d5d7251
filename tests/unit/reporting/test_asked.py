"""The columns of a table are what the commands asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from pixelflow.errors import UserError
from pixelflow.reporting.asked import asked, asked_keys
from pixelflow.reporting.presentation import Presentation
from pixelflow.reporting.runs import Run
from pixelflow.reporting.table import build_table
from pixelflow.runs.identity import setting_overrides

RECORD = {"num_samples": 100, "reference": "train", "features": "digits"}


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Callable[..., Run]:
    """A run with these overrides, whose config has stages and a guidance."""

    def make(
        overrides: list[str], stages: int = 2, scale: float | None = 2.0, seed: int = 0, choices: Mapping[str, str] = {}
    ) -> Run:
        config = {"cascade.num_stages": stages, "solver.num_stages": stages, "overrides": overrides}
        config |= {"guidance._target_": "pixelflow.flow.NoGuidance"} if scale is None else {}
        config |= {} if scale is None else {"guidance._target_": "a.ConstantGuidance", "guidance.scale": scale}
        record = RECORD | {"overrides": overrides, "choices": {"guidance": "constant", **choices}}
        return make_run(config, seed, {"fid": float(stages)}, record=record)

    return make


def test_places_machines_and_the_seed_define_no_setting() -> None:
    overrides = ["seed=1", "experiments=x", "hydra/launcher=submitit_slurm", "site=mine", "site.partition=gpu",
                 "trainer.device=cpu", "data.root=/there", "tracking=none", "job.output=x"]  # fmt: skip
    assert setting_overrides(overrides) == {}
    assert setting_overrides(["+a.b=1", "guidance=none", "experiments/arms@_global_=x"]) == {
        "a.b": "1", "guidance": "none", "experiments/arms@_global_": "x",
    }  # fmt: skip


def test_an_evaluation_adds_what_it_asked_for_to_what_the_training_did(make_run: Callable[..., Run]) -> None:
    config = {"overrides": ["cascade.num_stages=2", "guidance.scale=3", "seed=1"]}
    one = make_run(config, 1, {"fid": 1.0}, record=RECORD | {"overrides": ["guidance=none", "checkpoint=runs/x"]})
    assert asked(one) == {"cascade.num_stages": "2", "guidance": "none"}
    assert asked_keys([one, make_run({}, 0, {})]) == ["cascade.num_stages", "guidance"]


def test_the_columns_are_the_keys_that_were_set(run: Callable[..., Run]) -> None:
    """Not solver.num_stages, which repeats cascade.num_stages and comes first in no list of the user's."""
    runs = [run([f"cascade.num_stages={n}", f"seed={seed}"], n, seed=seed) for n in (1, 2) for seed in (0, 1)]
    table = build_table(runs)
    assert table.axes == ("cascade.num_stages",) and [row.values for row in table.rows] == [("1",), ("2",)]


def test_a_group_that_was_chosen_is_a_column_of_its_options(run: Callable[..., Run]) -> None:
    runs = [run(["guidance=none"], scale=None, choices={"guidance": "none"}), run(["guidance=constant"])]
    table = build_table(runs)
    assert table.headers == ("guidance",) and [row.values for row in table.rows] == [("constant",), ("none",)]
    assert not any("also differ" in note for note in table.notes), "the options of guidance follow from its choice"


def test_a_group_without_a_recorded_choice_is_a_column_of_its_class(run: Callable[..., Run]) -> None:
    runs = [run(["guidance=none"], scale=None), run(["guidance=constant"])]
    for one in runs:
        del one.record["choices"]
    assert build_table(runs).axes == ("guidance._target_",)


def test_an_option_of_one_choice_is_named_where_it_differs(run: Callable[..., Run]) -> None:
    runs = [run(["guidance=none"], scale=None, choices={"guidance": "none"})]
    runs += [run([f"guidance.scale={scale}"], scale=scale) for scale in (2.0, 3.0)]
    assert set(build_table(runs).axes) == {"guidance", "guidance.scale"}


def test_an_unknown_key_of_axes_is_refused(run: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match=r"no run has the key cascade.num_stage; did you mean cascade.num_stages\?"):
        build_table([run([], 1), run([], 2)], Presentation(axes=("cascade.num_stage",)))


@pytest.mark.parametrize(("distances", "bold"), [((0.32, 30.0), {0}), ((0.32, 0.5), {0, 1}), ((30.0,), set())])
def test_recall_far_from_the_best_distance_is_not_bold(
    distances: tuple[float, ...], bold: set[int], make_run: Callable[..., Run]
) -> None:
    runs = [make_run({"k": k}, 0, {"fid": fid, "recall": 0.5 + fid}, record=RECORD) for k, fid in enumerate(distances)]
    table = build_table(runs)
    assert {row for row, _ in table.best} == bold
    assert any("never marked: 1" in note for note in table.notes) == (bold == {0})
