"""Tests that files outside conf/ choose parts, and run nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from pixelflow.cli import prepare_hydra
from pixelflow.conf_dir import conf_folder
from pixelflow.errors import UserError

HOSTILE = {
    "callback": ("hydra: {callbacks: {x: {_target_: evil.go}}}", "hydra.callbacks.x._target_=evil.go"),
    "our_own_function": ("hydra: {callbacks: {x: {_target_: pixelflow.files.write_text}}}", "hydra.callbacks.x"),
    "logging": ("hydra: {job_logging: {handlers: {h: {(): evil.go}}}}", r"hydra.job_logging.handlers.h.\(\)"),
    "hydra_logging": ("hydra: {hydra_logging: {filters: {f: {(): evil.go}}}}", "hydra.hydra_logging.filters"),
    "environment": ("hydra: {job: {env_set: {LD_PRELOAD: /tmp/x.so}}}", "hydra.job.env_set.LD_PRELOAD"),
    "copied_environment": ("hydra: {job: {env_copy: [HOME]}}", "hydra.job.env_copy"),
    "folder": ("hydra: {run: {dir: /tmp/elsewhere}}", "hydra.run.dir"),
    "launcher": ("hydra: {launcher: {_target_: evil.Launcher}}", "hydra.launcher._target_"),
    "sweeper": ("hydra: {sweeper: {_target_: evil.Sweeper}}", "hydra.sweeper._target_=evil.Sweeper"),
    "inside_the_sweeper": ("hydra: {sweeper: {params: {a: {_target_: evil.go}}}}", "hydra.sweeper.params.a._target_"),
    "varied_trust": ("hydra: {sweeper: {params: {trust: '[evil]'}}}", "trust cannot be varied"),
    "varied_logging": ("hydra: {sweeper: {params: {+hydra/job_logging: evil}}}", "hydra/job_logging cannot be varied"),
    "varied_site": ("settings: [{site.setup: ['touch x']}]", "site.setup cannot be varied"),
    "site": ("site: {setup: ['touch x']}", "site=NAME"),
    "site_option": ("defaults: [{override /site: mine}]", "site=NAME"),
    "search": (
        "defaults: [{override /hydra/sweeper: optuna}]\nhydra: {sweeper: {custom_search_space: evil.go}}",
        "custom_search_space",
    ),
}
"""Recipes, and what the refusal names."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of configs with the hostile recipes, a harmless one, and a site."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.yaml").write_text(
        (conf_folder() / "site" / "local.yaml").read_text().replace("setup: []", "setup: [x]")
    )
    harmless = "experiment: mine\nsolver: {num_steps: 3}\nhydra: {sweeper: {params: {seed: '0,1'}}}"
    for name, text in {**{name: text for name, (text, _) in HOSTILE.items()}, "harmless": harmless}.items():
        (tmp_path / "experiments" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return tmp_path


def composed(folder: Path, *overrides: str):
    prepare_hydra()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("run", overrides=[f"hydra.searchpath=[file://{folder}]", *overrides], return_hydra_config=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(UserError, match=HOSTILE[name][1]):
        composed(folder, f"experiments={name}")


def test_a_recipe_sets_options_and_its_sweep(folder: Path) -> None:
    config = composed(folder, "experiments=harmless")
    assert (config.experiment, config.solver.num_steps, config.hydra.sweeper.params.seed) == ("mine", 3, "0,1")


@pytest.mark.parametrize("recipe", ["digits_kickoff", "eval_sweep", "inference_search"])
def test_own_recipes_go_with_a_folder_of_configs(recipe: str, folder: Path) -> None:
    assert composed(folder, f"experiments={recipe}").experiment == recipe


def test_what_the_user_types_counts(folder: Path) -> None:
    config = composed(folder, "site=mine", "site.processes=3", "hydra.run.dir=here", "hydra/launcher=local")
    assert (config.site.setup, config.site.processes, config.hydra.run.dir) == (["x"], 3, "here")
