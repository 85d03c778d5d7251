"""What the objective brings into training: its own weights, state that must be resumed, gates over a whole step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.backbones import JiT
from pixelflow.conditioning import ClassLabel
from pixelflow.data.in_memory import MemoryLoader
from pixelflow.flow import Cascade, LogitNormalTimesteps, XPrediction
from pixelflow.losses import AdaptiveWeight, FlowMatching, Lpips, Objective, PDino, Repa
from pixelflow.training.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from pixelflow.training.distributed import Network
from pixelflow.training.draw import FlowParts
from pixelflow.training.ema import EMA
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState
from pixelflow.training.trainer import Trainer, TrainerHooks
from tests.unit.losses.stand_ins import PatchEncoder
from tests.unit.training.test_trainer import BadCalls


def square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(dim=1)


def make_trainer(
    folder: Path, *, init: int = 0, log: Any = None, fused: bool = False, flow_matching: Any = None, **settings: Any
) -> Trainer:
    """JiT with dropout on two stages of random images, PixelGen's objective with the adaptive weight due every step."""
    torch.manual_seed(init)
    backbone = JiT(
        image_size=None, patch_size=2, width=16, depth=4, num_heads=2, num_classes=5, in_channels=1, in_context_len=2,
        in_context_start=1, proj_drop=0.2,
    )  # fmt: skip
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    objective = Objective(
        terms={
            "flow_matching": flow_matching or FlowMatching(),
            "repa": Repa(encoder="patches", layer=2, hidden=6),
            "lpips": Lpips(distance=square, weight=0.1, min_t=0.3),
            "p_dino": PDino(encoder="patches", weight=0.1, min_t=0.3),
        },
        encoders={"patches": PatchEncoder()},
        adaptive=AdaptiveWeight(terms=["lpips", "p_dino"], start_step=3, every=2),
    )
    objective.prepare(width=16, assets=Path(), device="cpu")
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chosen = {"max_steps": 12, "batch_size": 8, "save_every": 0, "log_every": 1, "device": "cpu"} | settings
    return Trainer(
        state=TrainingState(
            network=Network(backbone),
            optimizer=torch.optim.AdamW([*backbone.parameters(), *objective.parameters()], lr=2e-3, fused=fused),
            objective=objective,
            ema=EMA(decay=0.9),
        ),
        flow=FlowParts(
            cascade=Cascade(image_size=8, num_stages=2, max_timestep=backbone.max_timestep),
            timesteps=LogitNormalTimesteps(),
            prediction=XPrediction(),
            conditioning=ClassLabel(num_classes=5),
        ),
        loader=MemoryLoader(images=images, labels=torch.arange(20) % 5, batch_size=8, seed=1),
        checkpoints=CheckpointStore(folder),
        settings=TrainerSettings(**chosen),
        seed=7,
        config={},
        hooks=TrainerHooks(log=log or (lambda metrics, step: None)),
    )


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twelve")
    make_trainer(folder).fit()
    return folder / "step_00000012"


def test_the_checkpoint_carries_projection_and_adaptive_weight(twelve: Path) -> None:
    saved = load_checkpoint(twelve).tensors["objective"]
    assert saved["adaptive.value"].item() != 1
    fresh = make_trainer(twelve.parent / "other").state.objective.state_dict()
    assert set(saved) == set(fresh)
    changed = [name for name in fresh if not torch.equal(saved[name], fresh[name])]
    assert set(changed) == set(fresh), "trained, every one"


def test_resumed_training_is_the_same_bit_for_bit(twelve: Path, tmp_path: Path) -> None:
    """Across an update of the adaptive weight, with dropout, from other initial weights."""
    make_trainer(tmp_path, max_steps=5).fit()
    resumed = make_trainer(tmp_path, init=1)
    torch.rand(17)  # whatever else has drawn from the global generator
    resumed.resume()
    assert resumed.step == 5 and resumed.fit() == 12
    first, second = load_checkpoint(tmp_path / "step_00000012"), load_checkpoint(twelve)
    assert set(first.tensors) == set(second.tensors) == {"model", "ema", "optimizer", "objective"}
    for stem, tensors in first.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(value, second.tensors[stem][name]), f"{stem}: {name}"


def test_a_checkpoint_without_the_projection_is_refused(twelve: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    loaded = load_checkpoint(twelve)
    del loaded.tensors["objective"]
    trainer.checkpoints.latest = lambda: (loaded, [])  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"does not fit this run: objective: .*projection"):
        trainer.resume()


def test_the_average_is_of_the_backbone_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    assert [*trainer.state.network.names] == [name for name, _ in trainer.state.backbone.named_parameters()]
    assert len(trainer.state.ema.averages["ema"]) == len(trainer.state.network.names)
    groups = trainer.state.optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(trainer.state.network.names) + 6  # the projection's


def test_what_is_logged(tmp_path: Path) -> None:
    logged: list[dict[str, float]] = []
    make_trainer(tmp_path, max_steps=6, log=lambda metrics, step: logged.append(metrics)).fit()
    assert {"loss/flow_matching", "loss/repa", "loss/stage_0", "loss/stage_1", "adaptive_weight"} <= set(logged[0])
    weights = [metrics["adaptive_weight"] for metrics in logged]
    assert weights[:4] == [1, 1, 1, 1] and weights[4] != 1  # measured in the step that follows 4 finished ones


def test_accumulation_gives_the_same_step_with_gates_and_adaptive_weight(tmp_path: Path) -> None:
    weights, values = [], []
    for parts in (1, 4):
        trainer = make_trainer(tmp_path / str(parts), accumulate=parts, max_steps=5)
        for block in trainer.state.backbone.blocks:  # type: ignore[union-attr]
            block.attn.drop.p = block.mlp.drop.p = 0.0  # the parts draw masks of their own
        trainer.fit()
        assert trainer.state.objective.adaptive is not None
        values.append(trainer.state.objective.adaptive.value.item())
        weights.append(torch.nn.utils.parameters_to_vector(trainer.state.objective.parameters()))
    assert values[0] == pytest.approx(values[1], rel=1e-4) and values[0] != 1
    torch.testing.assert_close(weights[0], weights[1], atol=2e-4, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_does_not_change_the_adaptive_weight(fused: bool, tmp_path: Path) -> None:
    """Steps 5, 7 and 9 are measured, and flow matching is not finite in step 7."""
    values: dict[int, float] = {}

    def log(metrics: dict[str, float], step: int) -> None:
        values[step] = metrics.get("adaptive_weight", math.nan)

    trainer = make_trainer(tmp_path, max_steps=9, fused=fused, log=log, flow_matching=BadCalls(13, 14))
    trainer.fit()
    assert trainer.guard.skipped == 1
    assert values[4] == 1 and values[5] != 1
    assert values[5] == values[6] == values[7] == values[8] != values[9]
    assert math.isfinite(values[9])
