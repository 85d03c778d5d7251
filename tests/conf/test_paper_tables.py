"""The papers' tables as recipes: every row of the paper has a setting with the paper's values.

The numbers below come from the papers (PixelFlow: arXiv 2504.07963, Tables 1 to 4; PixelGen: its project page), not
from experiments/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pixelflow.assets import ASSETS
from pixelflow.benchmarks.estimate_table import estimate_table
from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.cli import prepare_hydra
from pixelflow.config.agreement import build_on_meta
from pixelflow.config.resolve import resolve
from pixelflow.config.schema import build
from pixelflow.config.suites import check_metrics
from pixelflow.config.sweepers import expand
from pixelflow.jobs import find_job
from pixelflow.jobs.fetch_assets import FetchOptions, wanted
from pixelflow.reporting.table import paper_rows
from pixelflow.runs.flat import flatten
from pixelflow.runs.identity import config_hash, own_evaluation
from tests.conf.test_compose import ROOT

MINIS = sorted({path.parent.name for path in (ROOT / "experiments").glob("*/mini.yaml")} - {"figure3_stages"})
QUALITY = ("fid", "sfid", "inception_score", "precision", "recall")


@dataclass(frozen=True)
class Row:
    """A row of a paper's table: the settings that it states, and its numbers as printed.

    `kickoff` is in tokens per side, `step` is the training step that is measured, `guidance` the scale of each stage in
    its middle; None where the paper does not say.
    """

    size: int
    patch: int
    step: int
    numbers: tuple[float, ...]
    kickoff: int | None = None
    solver: str | None = None
    solver_steps: int | None = None
    guidance: tuple[float, ...] | None = None
    weights: str = "ema"
    seconds: float | None = None


INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
STAGE_WISE = tuple(1 + 1.4 * share for share in (0, 1 / 6, 2 / 3, 1))
TABLES = {
    "table1_kickoff": [
        Row(64, 2, 600_000, (3.34, 6.11, 84.75, 0.78, 0.57), kickoff=32, weights="model"),
        Row(64, 2, 600_000, (3.21, 6.23, 78.50, 0.78, 0.56), kickoff=8, weights="model"),
        Row(64, 2, 600_000, (3.49, 6.45, 67.81, 0.78, 0.54), kickoff=2, weights="model"),
    ],
    "table2_patch": [
        Row(64, 2, 600_000, (3.49, 6.45, 67.81, 0.78, 0.54), kickoff=2, weights="model", seconds=1.28),
        Row(64, 4, 600_000, (3.41, 5.52, 68.83, 0.77, 0.56), kickoff=2, weights="model", seconds=0.58),
        Row(256, 2, 100_000, (28.50, 6.40, 47.37, 0.58, 0.53), kickoff=2, weights="model", seconds=30.88),
        Row(256, 4, 100_000, (33.17, 7.71, 42.29, 0.57, 0.52), kickoff=2, weights="model", seconds=7.31),
        Row(256, 8, 100_000, (47.50, 9.63, 31.19, 0.45, 0.50), kickoff=2, weights="model", seconds=3.96),
        Row(256, 4, 1_600_000, (2.81, 5.48, 251.79, 0.82, 0.55), kickoff=2, seconds=7.31),
        Row(256, 8, 1_600_000, (4.65, 5.42, 195.50, 0.79, 0.54), kickoff=2, seconds=3.96),
    ],
    "table3a_steps": [
        Row(256, 4, 1_600_000, numbers, solver="Euler", solver_steps=steps, guidance=(1.5,) * 4)
        for steps, numbers in {
            10: (3.39, 5.98, 255.27, 0.80, 0.54),
            20: (2.53, 5.53, 272.13, 0.82, 0.56),
            30: (2.51, 5.82, 274.92, 0.82, 0.56),
            40: (2.55, 6.58, 272.68, 0.81, 0.56),
        }.items()
    ],
    "table3b_solver": [
        Row(256, 4, 1_600_000, (2.51, 5.82, 274.92, 0.82, 0.56), solver="Euler", solver_steps=30, guidance=(1.5,) * 4),
        Row(256, 4, 1_600_000, (2.43, 5.38, 282.20, 0.83, 0.56), solver="AdaptiveRungeKutta", guidance=(1.5,) * 4),
    ],
    "table3c_guidance": [
        Row(256, 4, 1_600_000, (2.43, 282.2), solver="AdaptiveRungeKutta", guidance=(1.5,) * 4),
        Row(256, 4, 1_600_000, (1.98, 282.1), solver="AdaptiveRungeKutta", guidance=STAGE_WISE),
    ],
    "table4_imagenet256": [
        Row(256, 4, 1_600_000, (1.98, 5.83, 282.1, 0.81, 0.60), solver="AdaptiveRungeKutta", guidance=STAGE_WISE),
    ],
    "pixelgen_epochs": [
        Row(256, 16, 400_000, (5.11,), solver="Heun", solver_steps=50, guidance=(1.0,)),
        Row(256, 16, 800_000, (1.83,), solver="Heun", solver_steps=50, guidance=(2.25,)),
    ],
    "pixelgen_sampler": [
        Row(256, 16, 800_000, (1.83,), solver="Heun", solver_steps=50, guidance=(2.25,)),
    ],
}  # fmt: skip
SHARED = {
    ("table3a_steps", "table3b_solver", "table3c_guidance", "table4_imagenet256", "pixelflow_xl_imagenet256"),
    ("pixelgen_epochs", "pixelgen_sampler", "pixelgen_xl_imagenet256"),
}
"""Recipes that evaluate the same trained model."""


def settings_of(recipe: str) -> Iterator[dict[str, Any]]:
    """Yields the resolved config of every setting of a recipe's sweep."""
    prepare_hydra()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        base = compose("run", overrides=[f"experiments={recipe}"], return_hydra_config=True)
        swept = OmegaConf.to_container(base.hydra.sweeper.params or OmegaConf.create({}))
        assert isinstance(swept, dict)
        grid: list[list[str]] = [[]]
        for key, values in swept.items():
            grid = [[*job, f"{key}={value}"] for job in grid for value in str(values).split(",")]
        for job in expand(grid, OmegaConf.to_container(base.settings) or [], None):  # type: ignore[arg-type]
            overrides = [f"experiments={recipe}", *job]
            config = compose("run", overrides=overrides)
            yield resolve(config, overrides, find_job(config.job.name), elsewhere=True)


@pytest.mark.parametrize("recipe", TABLES)
def test_every_row_of_the_paper_is_a_setting_with_its_values(recipe: str) -> None:
    configs = list(settings_of(recipe))
    for config in configs:
        check_metrics(config)
        assert {INCEPTION, config["metrics"]["reference"]} <= set(wanted(config, FetchOptions())) <= set(ASSETS)
    for row in TABLES[recipe]:
        keys = ("fid", "inception_score") if recipe == "table3c_guidance" else QUALITY
        numbers = dict(zip(keys, row.numbers, strict=False))
        numbers |= {} if row.seconds is None else {"seconds_per_image": row.seconds}
        fitting = [config for config in configs if numbers in _quoted_beside(config)]
        assert len(fitting) == 1, (row, len(fitting))
        _check(fitting[0], row)
    quoted = sum(len(_quoted_beside(config)) for config in configs)
    assert quoted == len(TABLES[recipe]), "a row of the recipe is not one of the paper's, or is shown twice"


def _quoted_beside(config: dict[str, Any]) -> list[dict[str, float]]:
    """The numbers that the recipe quotes for this setting."""
    flat = flatten(config)
    return [row.metrics for row in paper_rows(config["paper"]) if row.match and row.match.items() <= flat.items()]


def _check(config: dict[str, Any], row: Row) -> None:
    cascade, solver, guidance = build(config, "cascade"), config["solver"], build(config, "guidance")
    assert (config["data"]["image_size"], config["backbone"]["patch_size"]) == (row.size, row.patch)
    assert (config["sampler"]["step"] or config["trainer"]["max_steps"]) == row.step
    assert config["sampler"]["weights"] == row.weights
    assert config["sampler"]["num_samples"] == 50_000
    assert config["metrics"]["reference"] == f"VIRTUAL_imagenet{row.size}_labeled.npz"
    assert row.kickoff in (None, cascade.kickoff / row.patch)
    if row.solver:
        assert solver["_target_"] == f"pixelflow.solvers.{row.solver}"
        assert solver.get("num_steps") == row.solver_steps
    if row.guidance:
        scales = [guidance.scale(stage, 0.5) for stage in range(cascade.num_stages)]
        assert scales == pytest.approx(row.guidance)
    if row.seconds:
        assert config["sampler"]["batch_size"] == 50
    rate = config["optimizer"]
    assert (rate["lr"], rate["weight_decay"], config["trainer"]["warmup_steps"]) == (1e-4, 0.0, 0)
    assert sum(p.numel() for p in build_on_meta(config).parameters()) > 670e6, "all models are XL"
    assert (config["ema"]["decay"], config["ema"]["ramp"]) == (0.9999, False)
    if config["backbone"]["_target_"].endswith("JiT"):  # as in PixelGen's release
        preprocess = config["data"]["preprocess"]
        assert (preprocess["crop"], preprocess["flip"], config["trainer"]["grad_clip"]) == ("center", False, None)
        assert (solver["shift"], config["trainer"]["batch_size"]) == (2.0, 256)
        if row.guidance == (2.25,):
            assert [guidance.scale(0, tau) for tau in (0.1, 0.11, 0.9, 0.91)] == [1.0, 2.25, 2.25, 1.0]
    if solver["_target_"].endswith("AdaptiveRungeKutta"):
        assert (solver["method"], solver["atol"]) == ("dopri5", 1e-6)


@pytest.mark.parametrize("recipes", sorted(SHARED), ids=lambda names: names[0])
def test_recipes_of_one_model_train_it_once(recipes: tuple[str, ...]) -> None:
    """All of their settings have the same weights, and the folder of the same recipe."""
    configs = [config for recipe in recipes for config in settings_of(recipe)]
    assert len({config_hash(config) for config in configs}) == 1
    assert {config["runs_of"] or config["experiment"] for config in configs} == {recipes[-1]}


def test_tables_1_and_2_share_a_model() -> None:
    """The kickoff of 2x2 tokens with patches of 2x2 pixels at 64 pixels."""
    kickoffs = {config_hash(config) for config in settings_of("table1_kickoff")}
    assert len(kickoffs) == 3
    assert len(kickoffs & {config_hash(config) for config in settings_of("table2_patch")}) == 1


def test_table_2_trains_five_models_for_seven_rows() -> None:
    assert len({config_hash(config) for config in settings_of("table2_patch")}) == 5


def test_the_losses_and_the_gate_of_pixelgen_share_trainings() -> None:
    losses = {config["arm"]: config_hash(config) for config in settings_of("pixelgen_losses")}
    gate = {config["arm"]: config_hash(config) for config in settings_of("pixelgen_gate")}
    assert gate["t >= 0"] == losses["+ P-DINO"] and gate["t >= 0.3"] == losses["+ gate"]
    assert gate["as released"] == losses["as released"]
    assert len(set(gate.values()) | set(losses.values())) == 7


def test_the_labels_of_arms_differ() -> None:
    for folder in {path.parent for path in (ROOT / "experiments").glob("*/*.yaml")} - {
        ROOT / "experiments" / "results"
    }:
        files = [path for path in folder.glob("*.yaml") if path.stem != "mini"]
        paper = [yaml.safe_load(path.read_text())["arm"] for path in files if not path.stem.startswith("mini")]
        mini = [yaml.safe_load(path.read_text())["arm"] for path in files if path.stem.startswith("mini")]
        assert len(set(paper)) == len(paper) and len(set(mini)) == len(mini), folder


@pytest.mark.parametrize("recipe", MINIS)
def test_a_miniature_needs_no_files_and_has_three_seeds(recipe: str) -> None:
    """It runs on a machine without assets, network or GPU."""
    seeds = set()
    for config in settings_of(f"{recipe}/mini"):
        check_metrics(config)
        assert not wanted(config, FetchOptions())
        assert config["data"]["_target_"] == "pixelflow.data.Digits" and config["trainer"]["device"] == "auto"
        assert config["experiment"] == f"{recipe}_mini"
        seeds.add(config["seed"])
    assert seeds == {0, 1, 2}


NOT_TRAINED = {"benchmark_sampling", "eval_sweep", "inference_search", "figure3_stages"}
"""Recipes of jobs that train nothing. The first measures a network with random weights, the others a checkpoint."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        *sorted({path.stem for path in (ROOT / "experiments").glob("*.yaml")} - NOT_TRAINED),
        *(f"{name}/mini" for name in MINIS),
    ],
)
def test_every_recipe_estimates_the_cost_of_its_table(recipe: str) -> None:
    settings = [([f"setting={n}"], config) for n, config in enumerate(settings_of(recipe))]
    result = estimate_table(settings, BenchmarkOptions(estimate=True, devices=8 if "mini" not in recipe else 1))
    weights = {config_hash(config) for _, config in settings}
    evaluations = {(config_hash(config), own_evaluation(config)) for _, config in settings}
    assert sum(row["evaluations"] for row in result["evaluations"]) == len(evaluations)
    assert len(result["trainings"]) == len(weights)
    assert result["sums"]["training_device_hours"] > 0 and result["sums"]["evaluation_device_hours"] > 0


def test_the_figure_of_the_stages_has_the_sampler_of_table_4() -> None:
    prepare_hydra()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        figure = compose("run", overrides=["experiments=figure3_stages"])
        table = compose("run", overrides=["experiments=table4_imagenet256"])
    assert figure.job.name == "sample" and figure.sampler.trajectories == len(figure.sampler.classes) == 8
    for key in ("_target_", "method", "rtol", "atol"):
        assert figure.solver[key] == table.solver[key]
    assert (figure.guidance._target_, figure.guidance.scale) == (table.guidance._target_, 2.4)


def test_the_miniatures_of_pixelflow_share_the_trainings_of_digits_kickoff() -> None:
    """Table 1 measures its three models at other steps as well, Table 3 the one with the smallest kickoff."""
    kickoffs = {config_hash(config) for config in settings_of("digits_kickoff")}
    assert len(kickoffs) == 9
    assert {config_hash(config) for config in settings_of("table1_kickoff/mini")} == kickoffs
    smallest = {config_hash(config) for config in settings_of("table3b_solver/mini")}
    assert len(smallest) == 3 and smallest < kickoffs
    table2 = {config_hash(config) for config in settings_of("table2_patch/mini")}
    assert len(table2) == 15 and table2 & kickoffs == smallest
