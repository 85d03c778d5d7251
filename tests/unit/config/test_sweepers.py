from __future__ import annotations

import pytest

from pixelflow.config.launchers import swept
from pixelflow.config.sweepers import expand
from pixelflow.jobs.retry import changed_site


def test_a_list_of_settings_is_no_product() -> None:
    settings = [{"solver": "heun", "solver.num_steps": 5}, {"solver": "euler", "data.classes": [1, 2]}]
    assert expand([["a=1"]], settings, None) == [
        ["a=1", "solver=heun", "solver.num_steps=5"],
        ["a=1", "solver=euler", "data.classes=[1, 2]"],
    ]


def test_seeds_take_the_place_of_a_sweep_over_seed() -> None:
    grid = [["a=1", "seed=0"], ["a=1", "seed=1"], ["a=2", "seed=0"], ["a=2", "seed=1"]]
    assert expand(grid, [], 3) == [[f"a={a}", f"seed={seed}"] for a in (1, 2) for seed in (0, 1, 2)]
    assert expand([["a=1"]], [], [7, 9]) == [["a=1", "seed=7"], ["a=1", "seed=9"]]


def test_a_setting_replaces_what_the_grid_says() -> None:
    assert expand([["a=1", "b=2"]], [{"a": 5}], None) == [["b=2", "a=5"]]


def test_nothing_to_expand() -> None:
    assert expand([["a=1"], ["a=2"]], [], None) == [["a=1"], ["a=2"]]


@pytest.mark.parametrize("seeds", [0, -1, []])
def test_no_seeds(seeds: object) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        expand([["a=1"]], [], seeds)  # type: ignore[arg-type]


def test_a_setting_is_a_mapping() -> None:
    with pytest.raises(ValueError, match=r"settings\[0\]='x' must be a mapping"):
        expand([[]], ["x"], None)  # type: ignore[list-item]


def test_options_of_the_site_for_a_new_try() -> None:
    assert changed_site(["job=retry", "site.mem_gb=64", "site.qos=long"]) == {"mem_gb": 64, "qos": "long"}


def test_the_axes_are_what_varies_the_recipes_first() -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.create({"hydra": {"sweeper": {"params": {"b": "1,2"}}}})
    assert swept(config, [["a=1", "b=1", "c=3"], ["a=2", "b=1", "c=3"]]) == ["b", "a"]
    assert swept(config, [["a=1", "d=1"], ["a=1"]]) == ["b", "d"]
