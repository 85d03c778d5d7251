"""The estimate of a recipe's table: its counts are those of real steps and of real sampling."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pixelflow.benchmarks.estimate import estimate
from pixelflow.benchmarks.estimate_table import estimate_table, to_text
from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.config.build import build_model
from pixelflow.config.training_parts import assemble_trainer, bare_backbone
from pixelflow.flow import ConstantGuidance, IntervalGuidance, NoGuidance, StageWiseGuidance
from pixelflow.sampling.counts import sampling_costs
from pixelflow.sampling.measure import measure_batch
from pixelflow.solvers import AdamsBashforth, AdaptiveRungeKutta, Euler, FixedRungeKutta, Heun
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.draw import draw_stages
from pixelflow.types import Condition
from tests.conf.test_compose import ROOT, composed

OPTIONS = BenchmarkOptions(estimate=True, devices=1)
TINY = ["job=benchmark", "tracking=none", "trainer.device=cpu", "trainer.batch_size=16", "backbone.depth=2"]
PIXELFLOW = ["backbone=pixelflow_tiny", "cascade.num_stages=2"]
JIT = ["backbone=jit_tiny", "cascade=single", "prediction=x", "backbone.patch_size=2", "backbone.in_context_start=1"]
DIGITS = ["objective=digits_perceptual", "objective.terms.perceptual.min_t=0"]
PIXELGEN = [
    "objective=pixelgen", "objective.terms.repa.layer=1", "objective.adaptive=null", "objective.pad_to=null",
    "objective.encoders.dino.file=null", "objective.encoders.dino.name=vit_small_patch14_dinov2",
    "objective.encoders.dino.num_features=384", "objective.encoders.dino.image_size=56",
    "objective.terms.lpips.distance.file=null", "objective.terms.lpips.distance.image_size=32",
]  # fmt: skip
UNGATED = ["objective.terms.lpips.min_t=0", "objective.terms.p_dino.min_t=0"]


def real_flops(config: dict[str, Any], folder: Path) -> int:
    """Counts one forward and backward pass of the real training."""
    trainer = assemble_trainer(config, CheckpointStore(folder))
    batch = next(iter(trainer.loader))
    random = trainer.optimizer_step.random
    stages = draw_stages(num_stages=trainer.flow.cascade.num_stages, batch_size=len(batch), random=random, step=0)
    # Evenly spread times: the share that passes a gate is that of the distribution.
    uniform = (torch.arange(len(batch)) + 0.5).double() / len(batch)
    tau = trainer.flow.timesteps(uniform, *trainer.flow.cascade.windows(stages))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trainer.optimizer_step.forward(batch, stages, tau, tau).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backbone", [PIXELFLOW, JIT], ids=["pixelflow", "jit"])
@pytest.mark.parametrize("objective", [[], DIGITS, [*PIXELGEN, *UNGATED]], ids=["flow_matching", "digits", "pixelgen"])
def test_operations_of_a_step(backbone: list[str], objective: list[str], tmp_path: Path) -> None:
    config = composed(*TINY, *backbone, *objective)
    real = real_flops(config, tmp_path)
    result = estimate(config, OPTIONS)
    assert 1e12 * result["tflop_per_step"] == pytest.approx(real, rel=0.02)
    assert (result["tflop_per_image_of_objective"] > 0) == bool(objective)


def test_gates_and_filling(tmp_path: Path) -> None:
    gated = composed(*TINY, *JIT, *PIXELGEN, "trainer.batch_size=64", "objective.terms.lpips.min_t=0.3",
                     "objective.terms.p_dino.min_t=0.3")  # fmt: skip
    real = real_flops(gated, tmp_path / "gated")
    of_gated = estimate(gated, OPTIONS)
    assert 1e12 * of_gated["tflop_per_step"] == pytest.approx(real, rel=0.02)
    gated["objective"]["pad_to"] = 64
    everyone = composed(*TINY, *JIT, *PIXELGEN, *UNGATED, "trainer.batch_size=64")
    assert estimate(gated, OPTIONS)["tflop_per_step"] == pytest.approx(estimate(everyone, OPTIONS)["tflop_per_step"])
    assert of_gated["tflop_per_step"] < 0.9 * estimate(everyone, OPTIONS)["tflop_per_step"]


def test_terms_of_weight_zero_cost_nothing() -> None:
    off = ["objective.terms.repa.weight=0", "objective.terms.lpips.weight=0", "objective.terms.p_dino.weight=0"]
    result = estimate(composed(*TINY, *JIT, *PIXELGEN, *off), OPTIONS)
    plain = estimate(composed(*TINY, *JIT), OPTIONS)
    assert result["tflop_per_step"] == plain["tflop_per_step"]
    assert result["total_gib_per_device"] == plain["total_gib_per_device"]


SOLVERS = {
    "euler": Euler(num_steps=[3, 5], num_stages=2),
    "heun": Heun(num_steps=4, num_stages=2),
    "adams_bashforth": AdamsBashforth(num_steps=6, num_stages=2),
    "runge_kutta_start": AdamsBashforth(num_steps=6, num_stages=2, order=3, startup="runge_kutta"),
    "rk4": FixedRungeKutta(method="rk4", num_steps=2, num_stages=2),
}
GUIDANCES = {
    "none": NoGuidance(),
    "constant": ConstantGuidance(scale=2.0),
    "constant_one": ConstantGuidance(scale=1.0),
    "stage_wise": StageWiseGuidance(scale=3.0, num_stages=2),
    "interval": IntervalGuidance(scale=3.0, low=0.3, high=0.7),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("every", [1, 2])
def test_passes_and_operations_of_sampling(solver: str, guidance: str, every: int) -> None:
    changed = [] if every == 1 else ["solver=euler", f"sampler.cache_every={every}"]
    config = composed("job=benchmark", *PIXELFLOW, "backbone.depth=4", "trainer.device=cpu", *changed)
    model = build_model(config)
    sampler = model.sampler()
    sampler.solver, sampler.guidance = SOLVERS[solver], GUIDANCES[guidance]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        costs = measure_batch(sampler, Condition(torch.arange(3)), sampler.keyed_noise(range(3), 0))
    counted = sampling_costs(
        bare_backbone(config), model.cascade, SOLVERS[solver], GUIDANCES[guidance], channels=1, cache_every=every
    )
    assert [stage.evaluations for stage in counted.stages] == [stage.nfe for stage in costs.stages]
    assert [stage.passes for stage in counted.stages] == [stage.passes for stage in costs.stages]
    assert 3 * counted.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_adaptive_solvers_take_the_assumed_evaluations() -> None:
    config = composed("job=benchmark", *PIXELFLOW)
    model = build_model(config, bare_backbone(config))
    arguments: Any = (model.backbone, model.cascade, AdaptiveRungeKutta(method="dopri5"), GUIDANCES["interval"])
    counted = sampling_costs(*arguments, channels=1, adaptive_evaluations=10)
    assert [(stage.evaluations, stage.passes) for stage in counted.stages] == [(10, 14), (10, 14)]
    with pytest.raises(ValueError, match="adaptive_evaluations"):
        sampling_costs(*arguments, channels=1)


def table(*settings: list[str]) -> dict[str, Any]:
    return estimate_table([(given, composed(*TINY, *PIXELFLOW, *given)) for given in settings], OPTIONS)


def test_shared_trainings_and_evaluations_are_counted_once() -> None:
    one = table(["seed=0"])
    result = table(
        ["seed=0", "guidance.scale=2"], ["seed=0", "guidance.scale=3"], ["seed=1", "guidance.scale=2"],
        ["seed=0", "guidance.scale=2"],
    )  # fmt: skip
    assert [row["label"] for row in result["trainings"]] == ["seed=0", "seed=1"]
    assert [(row["label"], row["evaluations"]) for row in result["evaluations"]] == [
        ("scale=2", 2),
        ("seed=0 scale=3", 1),
    ]
    sums = result["sums"]
    assert sums["training_device_hours"] == pytest.approx(2 * one["sums"]["training_device_hours"])
    assert sums["evaluation_device_hours"] == pytest.approx(3 * one["sums"]["evaluation_device_hours"])
    assert sums["device_hours"] == sums["training_device_hours"] + sums["evaluation_device_hours"]


def test_device_hours_follow_from_operations() -> None:
    result = table(["seed=0"])
    row, seen = result["trainings"][0], result["evaluations"][0]
    rate = 790e12 * 0.4 * 3600
    assert row["device_hours"] == pytest.approx(
        row["tflop_per_image"] * 1e12 * row["images_per_step"] * row["steps"] / rate
    )
    per_image = seen["tflop_per_image"] + seen["tflop_per_image_of_measuring"]
    assert seen["device_hours"] == pytest.approx(per_image * 1e12 * seen["images"] / rate)
    assert seen["tflop_per_image_of_measuring"] > 0
    assert "evaluations in each stage" not in to_text(result)  # the assumption about adaptive solvers


def test_memory_that_does_not_fit() -> None:
    config = composed(*TINY, *PIXELFLOW)
    assert estimate(config, OPTIONS)["fits"]
    assert not estimate(config, BenchmarkOptions(estimate=True, devices=1, memory_gib=1e-3))["fits"]


def estimated(*overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run.py"), *overrides, "job=benchmark", "job.estimate=true"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_one_command_counts_the_sweep_of_a_recipe(tmp_path: Path) -> None:
    data = ["data=imagefolder", f"data.root={tmp_path}/missing", "data.image_size=16", "data.channels=1",
            "data.num_classes=10"]  # fmt: skip
    done = estimated("experiments=digits_kickoff", "job.devices=2", f"job.output={tmp_path}", *data)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "estimate_digits_kickoff.json").read_text())
    labels = [f"kickoff={kickoff} seed={seed}" for kickoff in (4, 8, 16) for seed in (0, 1, 2)]
    assert [row["label"] for row in result["trainings"]] == labels
    assert [(row["label"], row["passes_per_image"]) for row in result["evaluations"]] == [
        ("kickoff=4", 60), ("kickoff=8", 40), ("kickoff=16", 20),
    ]  # fmt: skip
    assert result["settings"] == 9 and result["sums"]["devices"] == 2
    assert to_text(result) in done.stdout


def test_a_setting_that_is_invalid_is_named() -> None:
    done = estimated("experiments=digits_kickoff", "backbone.patch_size=8")
    assert done.returncode == 2 and "cascade.kickoff=4 " in done.stderr and "patch_size=8" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_within_a_sweep_each_setting_is_printed_by_itself() -> None:
    done = estimated("-m", "experiments=digits_kickoff", "cascade.kickoff=8", "seed=0,1", "tracking=none")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 setting") == 2
