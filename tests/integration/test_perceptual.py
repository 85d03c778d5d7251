"""PixelGen's parts through the config: recipes of small models are trained on the digits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelflow.config.training_parts import assemble_trainer
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.trainer import Trainer, TrainerHooks
from tests.conf.test_compose import composed
from tests.integration.test_pipeline import call

pytest.importorskip("timm")
pytest.importorskip("lpips")

RANDOM_NETWORKS = [
    *("objective.encoders.dino.file=null", "objective.encoders.dino.name=vit_tiny_patch16_224"),
    *("objective.encoders.dino.image_size=32", "objective.encoders.dino.num_features=192"),
    "objective.terms.lpips.distance.file=null",
]
"""Small, with seeded random weights, in place of DINOv2-B and the trained VGG."""
DIGITS = [
    *("data=digits", "data.image_size=16", "data.channels=1", "data.num_classes=10"),
    *("trainer.batch_size=8", "trainer.precision=fp32", "trainer.save_every=0"),
    *("optimizer.lr=2e-3", "trainer.device=cpu"),
]


def trainer_of(tmp_path: Path, log: list[dict[str, float]], *overrides: str) -> Trainer:
    config = composed(*RANDOM_NETWORKS, *DIGITS, "trainer.log_every=1", *overrides)
    store = CheckpointStore(tmp_path / "checkpoints")
    return assemble_trainer(config, store, hooks=TrainerHooks(log=lambda metrics, step: log.append(metrics)))


@pytest.mark.parametrize("arm", ["x", "velocity"])
def test_a_cascade_trains_with_perceptual_losses(arm: str, tmp_path: Path) -> None:
    """PixelFlow's backbone on three stages: LPIPS and P-DINO apply to every stage, and the loss falls."""
    log: list[dict[str, float]] = []
    recipe = ["experiments=cascade_perceptual", f"experiments/cascade_perceptual@_global_={arm}"]
    small = ["backbone=pixelflow_tiny", "backbone.depth=2", "cascade.num_stages=3", "trainer.max_steps=30"]
    trainer = trainer_of(tmp_path, log, *recipe, *small)
    assert set(trainer.state.objective.terms) == {"flow_matching", "lpips", "p_dino"}
    assert trainer.fit() == 30
    terms = [f"loss/{name}" for name in ("flow_matching", "lpips", "p_dino")]
    assert all(set(terms) | {"loss/stage_0", "loss/stage_1", "loss/stage_2"} <= set(metrics) for metrics in log)
    means = {name: (mean(log[:8], name), mean(log[-8:], name)) for name in terms[:1]}
    assert all(late < early for early, late in means.values()), means


def mean(log: list[dict[str, Any]], name: str) -> float:
    return sum(metrics[name] for metrics in log) / len(log)


def test_perceptual_losses_have_a_gradient_at_every_stage(tmp_path: Path) -> None:
    """Without flow matching, the predictions of all three stages have a gradient."""
    recipe = ["experiments=cascade_perceptual", "backbone=pixelflow_tiny", "backbone.depth=1", "cascade.num_stages=3"]
    more = ["objective.terms.flow_matching.weight=0", "trainer.batch_size=24"]  # some of every stage pass the gate
    trainer = trainer_of(tmp_path, [], *recipe, *more)
    hooked: list[torch.Tensor] = []

    def keep(module: object, arguments: object, output: Any) -> None:
        for image in output.output:
            image.retain_grad()
            hooked.append(image)

    trainer.state.backbone.register_forward_hook(keep)
    trainer.train_step(next(iter(trainer.loader)))
    assert [image.shape[-1] for image in hooked] == [4, 8, 16]
    assert all(image.grad is not None and image.grad.abs().sum() > 0 for image in hooked)


def test_pixelgen_trains_on_digits(tmp_path: Path) -> None:
    log: list[dict[str, float]] = []
    small = [
        "backbone=jit_tiny",
        "trainer.max_steps=12",
        "objective.terms.repa.layer=2",
        "objective.terms.repa.hidden=32",
    ]
    trainer = trainer_of(tmp_path, log, "experiments=pixelgen_l_imagenet256", *small)
    assert trainer.fit() == 12
    assert {"loss/flow_matching", "loss/repa", "loss/lpips", "loss/p_dino", "adaptive_weight"} <= set(log[-1])
    assert log[-1]["loss/repa"] < log[0]["loss/repa"]


def test_a_missing_asset_is_named_before_anything_is_written(tmp_path: Path) -> None:
    size = [override for override in DIGITS if override.startswith("data")]
    recipe = [
        "experiments=pixelgen_l_imagenet256",
        "backbone=jit_tiny",
        "objective.terms.repa.layer=2",
        *size,
        "metrics=digits",
        "metrics.reference=train",
    ]
    done = call(*recipe, "assets.root=weights", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "weights/vit_base_patch14_dinov2.safetensors is missing" in done.stderr
    assert "weights/vgg16-397923af.pth is missing" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_of_the_objective(tmp_path: Path) -> None:
    done = call("job=benchmark_objective", "objective=digits_perceptual", "job.repeats=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ratio = re.search(r"whole / parts: \d\.\d+ in time, (\d\.\d+) in FLOPs", done.stdout)
    assert ratio and 0.99 < float(ratio[1]) < 1.01, done.stdout
    assert "digits, clean images" in done.stdout and "digits, predicted images" in done.stdout
    assert list(tmp_path.iterdir()) == []
