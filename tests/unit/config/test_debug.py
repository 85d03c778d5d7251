"""`debug=true`: what it sets in any recipe, where its runs lie, and that nothing of them counts as a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pixelflow.conf_dir import conf_folder
from pixelflow.config.debug import set_aside
from pixelflow.errors import UserError
from pixelflow.model import Model
from pixelflow.runs.identity import config_hash
from tests.conf.test_compose import NEEDS, ROOT, composed

RECIPES = sorted(
    path.relative_to(ROOT / "experiments").with_suffix("").as_posix()
    for pattern in ("*.yaml", "*/mini.yaml")
    for path in (ROOT / "experiments").glob(pattern)
)
IN_DEBUG = ("debug=true", "runs_dir=runs/debug")
FEW = ("quickstart", "pixelflow_xl_imagenet256", "pixelgen_imagenet256", "cascade_x", "pixelgen_sampler/mini")


def in_debug(recipe: str, *more: str) -> dict[str, Any]:
    return composed(f"experiments={recipe}", *IN_DEBUG, *more, *NEEDS.get(("experiments", recipe.split("/")[0]), []))


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in RECIPES]
)
def test_every_recipe_is_small(recipe: str) -> None:
    config, plain = (
        in_debug(recipe),
        composed(f"experiments={recipe}", *NEEDS.get(("experiments", recipe.split("/")[0]), [])),
    )
    assert (config["trainer"]["max_steps"], config["sampler"]["num_samples"], config["backbone"]["depth"]) == (5, 10, 2)
    assert config["backbone"]["_target_"] == plain["backbone"]["_target_"]
    assert config["data"]["image_size"] == plain["data"]["image_size"] and config["cascade"] == plain["cascade"]
    assert config["tracking"] == {"mlflow": False, "uri": None} and config["sampler"]["step"] is None
    assert config_hash(config) != config_hash(plain)


def test_no_key_of_the_layer_is_unknown() -> None:
    """Each is a key of an option in conf/."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in conf_folder().glob("*/*.yaml")]
    names = {name for content in files for name in content} | {"layer", "hidden", "file"}
    names |= set(yaml.safe_load((conf_folder() / "run.yaml").read_text(encoding="utf-8"))["sampler"]) | {"workers"}
    layer = yaml.safe_load((conf_folder() / "debug.yaml").read_text(encoding="utf-8"))
    assert {key.rpartition(".")[2] for key in layer} <= names


def test_a_typed_key_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", *IN_DEBUG, "trainer.max_steps=7", "+backbone.depth=3"])
    config = in_debug("quickstart", "trainer.max_steps=7", "backbone.depth=3")
    assert (config["trainer"]["max_steps"], config["backbone"]["depth"], config["trainer"]["batch_size"]) == (7, 3, 8)


def test_the_values_of_a_recipes_sweep_do_not_win() -> None:
    config = in_debug("cascade_x", "sampler.step=500", "solver.num_steps=30")
    assert (config["sampler"]["step"], config["solver"]["num_steps"]) == (None, 2)


@pytest.mark.parametrize(
    ("typed", "folder"),
    [((), "runs/debug"), (("runs_dir=out",), "out/debug"), (("runs_dir=out/debug",), "out/debug")],
)
def test_its_runs_lie_apart(typed: tuple[str, ...], folder: str) -> None:
    assert set_aside(["-m", "debug=true", *typed])[-1] == f"runs_dir={folder}"
    assert set_aside(["seed=1", *typed]) == ["seed=1", *typed]


def test_results_lie_there_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_debug("quickstart", "job=data")["job"]["output"] == "runs/debug/data"
    assert composed("job=data")["job"]["output"] == "runs/data"
    monkeypatch.setattr("sys.argv", ["run.py", *IN_DEBUG, "job=table", "job.output=experiments/results"])
    with pytest.raises(UserError, match=r"job.output=experiments/results: debug=true writes into runs_dir=runs/debug"):
        in_debug("quickstart", "job=table", "job.output=experiments/results")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["debug=true"], "debug=true counts on the command line only"),
        (["runs_dir=runs/debug"], "runs_dir=runs/debug holds runs of debug=true only"),
        (["experiment=debug"], "experiment=debug is the folder of debug=true"),
        (["runs_of=debug"], "runs_of=debug is the folder of debug=true"),
    ],
)
def test_real_runs_and_debug_runs_are_not_mixed(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(*overrides)


@pytest.mark.parametrize("key", ["checkpoint", "init_from"])
def test_its_checkpoint_counts_for_nothing_else(key: str, tmp_path: Path) -> None:
    folder = _model(in_debug("quickstart")).save(tmp_path / "step_00000005")
    job = "sample" if key == "checkpoint" else "train"
    with pytest.raises(UserError, match=rf"{key}={folder} was made with debug=true; it can be used with debug=true"):
        composed(f"job={job}", f"{key}={folder}")
    assert in_debug("quickstart", f"job={job}", f"{key}={folder}")["sampler"]["num_samples"] == 10


def _model(config: dict[str, Any]) -> Model:
    from pixelflow.config.build import build_model

    return build_model(config)
