"""Every recipe measures what it makes, and the papers' recipes have the papers' settings.

The values in `PAPER` and below come from the papers and their releases, not from conf/.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest

from pixelflow.assets import ASSETS
from pixelflow.config.agreement import build_on_meta
from pixelflow.config.schema import build
from pixelflow.config.suites import check_metrics
from pixelflow.jobs.fetch_assets import FetchOptions, wanted
from tests.conf.test_compose import NEEDS, ROOT, composed

RECIPES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
OF_IMAGENET = (
    "pixelflow_xl",
    "pixelgen_",
    "jit_l",
    "cascade_perc",
    "table1",
    "table2",
    "table3a",
    "table3b",
    "table3c",
    "table4",
)
IMAGENET = sorted(name for name in RECIPES if name.startswith(OF_IMAGENET) and not name.endswith("_mini"))
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
VGG_AND_DINO = {"vgg16-397923af.pth", "vit_base_patch14_dinov2.safetensors"}


@functools.cache
def recipe(name: str, *more: str) -> dict[str, Any]:
    """Returns the resolved config of a recipe, which the tests only read."""
    return composed(f"experiments={name}", *NEEDS.get(("experiments", name), []), *more)


@pytest.mark.parametrize("name", RECIPES)
def test_its_metrics_measure_its_images_and_its_files_have_addresses(name: str) -> None:
    config = recipe(name)
    if config["job"]["name"] != "benchmark":  # which measures no images
        check_metrics(config)
    assert set(wanted(config, FetchOptions())) <= set(ASSETS)


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_is_measured_as_in_the_papers(name: str) -> None:
    """By Inception, against ADM's reference of the recipe's size, on 50,000 images."""
    config = recipe(name)
    metrics, size = config["metrics"], config["data"]["image_size"]
    assert metrics["features"]["_target_"].endswith("InceptionFeatures")
    assert metrics["reference"] == f"VIRTUAL_imagenet{size}_labeled.npz"
    assert ASSETS[metrics["reference"]].image_size == size
    assert config["sampler"]["num_samples"] == 50_000
    files = set(wanted(config, FetchOptions()))
    perceptual = config["objective"]["terms"].keys() - {"flow_matching"}
    assert files == {INCEPTION, metrics["reference"]} | (VGG_AND_DINO if perceptual else set())


@dataclass(frozen=True)
class Paper:
    """Settings of a model in its paper or release; `steps` are optimizer steps, `parameters` those that are trained."""

    parameters: int
    size: int
    patch: int
    stages: int
    steps: int
    solver: str
    guidance: tuple[float, ...]  # of each stage, in its middle
    crop: str
    flip: bool
    clip: float | None
    batch: int | None = None  # None: not stated
    solver_steps: int | None = None  # None: adaptive


PAPER = {
    # arXiv 2504.07963: XL throughout; Table 3c: Dopri5, stage-wise guidance of at most 2.4; Table 2: 1600K iterations.
    "pixelflow_xl_imagenet256": Paper(
        parameters=676_611_120, size=256, patch=4, stages=4, steps=1_600_000, solver="AdaptiveRungeKutta",
        guidance=(1.0, 1 + 1.4 / 6, 1 + 1.4 * 2 / 3, 2.4), crop="random", flip=True, clip=1.0,
    ),
    # With patches of 2x2, 36 values fewer than 4x4, the input and output layers (width 1152) and a bias are smaller.
    # Table 2: patch 2, kickoff of 2x2 tokens, which is 64 / 2^4 pixels; 600K iterations. Table 3a: Euler 30, 1.5.
    "pixelflow_xl_imagenet64": Paper(
        parameters=676_611_120 - 2 * 36 * 1152 - 36, size=64, patch=2, stages=5, steps=600_000, solver="Euler",
        solver_steps=30, guidance=(1.5,) * 5, crop="random", flip=True, clip=1.0,
    ),
    # PixelGen: 8 processes of 32 images, 40 epochs of 1,281,167 images for L, 160 for XL; no gradient clip.
    "pixelgen_l_imagenet256": Paper(
        parameters=458_877_664, size=256, patch=16, stages=1, steps=200_000, solver="Euler", solver_steps=50,
        guidance=(1.0,), crop="center", flip=False, clip=None, batch=256,
    ),
    "pixelgen_xl_imagenet256": Paper(
        parameters=676_699_200, size=256, patch=16, stages=1, steps=800_000, solver="Heun", solver_steps=50,
        guidance=(1.0,), crop="center", flip=False, clip=None, batch=256,
    ),
    "jit_l_baseline": Paper(
        parameters=458_877_664, size=256, patch=16, stages=1, steps=200_000, solver="Euler", solver_steps=50,
        guidance=(1.0,), crop="center", flip=False, clip=None, batch=256,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_recipe_has_the_paper_values(name: str) -> None:
    config, paper = recipe(name), PAPER[name]
    backbone = build_on_meta(config)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == paper.parameters
    assert backbone.patch_size == paper.patch
    assert (config["data"]["image_size"], config["data"]["channels"], config["data"]["num_classes"]) == (
        paper.size, 3, 1000,
    )  # fmt: skip
    preprocess = config["data"]["preprocess"]
    assert (preprocess["crop"], preprocess["flip"]) == (paper.crop, paper.flip)
    assert build(config, "cascade").num_stages == paper.stages
    trainer = config["trainer"]
    assert (trainer["max_steps"], trainer["grad_clip"], trainer["precision"]) == (paper.steps, paper.clip, "bf16")
    assert trainer["warmup_steps"] == 0, "a constant learning rate"
    assert paper.batch in (None, trainer["batch_size"])
    optimizer = config["optimizer"]
    assert optimizer["_target_"] == "torch.optim.AdamW"
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["betas"]) == (1e-4, 0.0, [0.9, 0.999])
    ema = build(config, "ema")
    assert [ema.decay("ema", step) for step in (1, 1000, 10**6)] == [0.9999] * 3
    assert config["conditioning"]["drop_prob"] == 0.1
    solver, guidance = config["solver"], build(config, "guidance")
    assert solver["_target_"] == f"pixelflow.solvers.{paper.solver}"
    assert solver.get("num_steps") == paper.solver_steps
    assert [guidance.scale(stage, 0.5) for stage in range(paper.stages)] == pytest.approx(paper.guidance)


def test_the_flow_of_pixelflow() -> None:
    """Uniform timesteps of 1000; Dopri5 with the release's tolerances, of which the paper states the absolute one."""
    config = recipe("pixelflow_xl_imagenet256")
    assert config["timesteps"]["_target_"].endswith("UniformTimesteps")
    assert config["timesteps"]["num_train_timesteps"] == config["cascade"]["num_train_timesteps"] == 1000
    solver = config["solver"]
    assert (solver["method"], solver["rtol"], solver["atol"]) == ("dopri5", 1e-3, 1e-6)


@pytest.mark.parametrize("name", ["pixelgen_l_imagenet256", "pixelgen_xl_imagenet256", "pixelgen_losses"])
def test_the_flow_and_losses_of_pixelgen(name: str) -> None:
    config = recipe(name)
    times, prediction = config["timesteps"], config["prediction"]["_target_"]
    assert (times["mean"], times["std"], times["shift"]) == (-0.8, 0.8, 1.0)
    assert prediction.endswith("XPrediction") and config["cascade"]["t_eps"] == 0.05
    terms = config["objective"]["terms"]
    assert {name: term["weight"] for name, term in terms.items()} == {
        "flow_matching": 1.0, "repa": 0.5, "lpips": 0.1, "p_dino": 0.01,
    }  # fmt: skip
    assert terms["lpips"]["min_t"] == terms["p_dino"]["min_t"] == 0.3
    assert (terms["repa"]["layer"], config["objective"]["encoders"]["dino"]["layer"]) == (8, 11)
    adaptive = config["objective"]["adaptive"]
    assert [adaptive[key] for key in ("start_step", "every", "momentum", "largest")] == [400_000, 50, 0.8, 100.0]


def test_the_sampler_of_pixelgen_xl() -> None:
    config = recipe("pixelgen_xl_imagenet256")
    assert (config["solver"]["shift"], config["solver"]["grid"]) == (2.0, "uniform")
    guided = build(recipe("pixelgen_xl_imagenet256", "guidance=interval"), "guidance")
    assert [guided.scale(0, tau) for tau in (0.1, 0.11, 0.9, 0.91)] == [1.0, 2.25, 2.25, 1.0]
    assert recipe("pixelgen_l_imagenet256")["solver"]["shift"] == 1.0


def test_an_arm_has_the_gates_of_the_release() -> None:
    """LPIPS is gated; P-DINO states the gate, which has no effect."""
    config = recipe("pixelgen_losses", "experiments/pixelgen_losses@_global_=as_released")
    objective, released = build(config, "objective"), config["objective"]["terms"]["p_dino"]
    assert released["gating"] == "as_released" and released["min_t"] == 0.3
    gate = build(recipe("pixelgen_losses", "experiments/pixelgen_losses@_global_=gate"), "objective")
    assert list(objective.terms) == list(gate.terms) and gate.terms["p_dino"].gating == "gated"
    for name in ("pixelgen_imagenet256", "pixelgen_l_imagenet256", "pixelgen_xl_imagenet256", "pixelgen_losses"):
        assert "as_released" in (ROOT / "experiments" / f"{name}.yaml").read_text(), name


@pytest.mark.parametrize(("kickoff", "stages"), [(32, 1), (8, 3), (2, 5)])
@pytest.mark.parametrize("processes", [1, 8])
def test_the_kickoffs_of_table_1(kickoff: int, stages: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tokens per side, at 64 pixels with patches of 2; blocks are compiled, which needs balanced batches."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    config = composed("experiments=pixelflow_xl_imagenet64", f"cascade.num_stages={stages}")
    assert build(config, "cascade").kickoff == 2 * kickoff
    guidance = build(config, "guidance")
    assert {guidance.scale(stage, 0.5) for stage in range(stages)} == {1.5}


def test_table_2_at_64_pixels_with_patches_of_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    config = composed("experiments=pixelflow_xl_imagenet64", "backbone.patch_size=4", "cascade.num_stages=4")
    assert build(config, "cascade").kickoff == 2 * 4


@pytest.mark.parametrize(("kickoff", "stages"), [(4, 3), (8, 2), (16, 1)])
def test_the_arms_of_digits_kickoff_have_the_same_guidance(kickoff: int, stages: int) -> None:
    config = recipe("digits_kickoff", f"cascade.kickoff={kickoff}")
    guidance = build(config, "guidance")
    assert build(config, "cascade").num_stages == stages
    assert {guidance.scale(stage, tau) for stage in range(stages) for tau in (0.0, 0.5, 1.0)} == {2.0}


def test_the_ramp_of_the_averages_is_kept_where_no_paper_is_repeated() -> None:
    for name in ("quickstart", "digits_kickoff", "digits_pixelgen", "cascade_perceptual"):
        ema = build(recipe(name), "ema")
        assert ema.decay("ema", 1) == 2 / 11, name
