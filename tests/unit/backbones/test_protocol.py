"""A user's own backbone needs no more than the `Backbone` protocol: a convolutional one trains and samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelflow.conditioning import ClassLabel
from pixelflow.data.in_memory import MemoryLoader
from pixelflow.flow import Cascade, NoGuidance, StageWiseGuidance, UniformTimesteps, VelocityPrediction
from pixelflow.losses import AdaptiveWeight, FlowMatching, Lpips, Objective, Repa
from pixelflow.nn.compile import compile_blocks
from pixelflow.sampling import Sampler
from pixelflow.solvers import Euler
from pixelflow.training.activation_checkpointing import checkpoint_blocks
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.distributed import Network
from pixelflow.training.draw import FlowParts
from pixelflow.training.ema import EMA
from pixelflow.training.state import TrainingState
from pixelflow.training.trainer import Trainer, TrainerSettings
from pixelflow.types import Backbone, BackboneOutput, Condition
from tests.unit.losses.stand_ins import PatchEncoder

NUM_CLASSES = 5


class ConvNet(nn.Module):
    """Two convolutions, modulated by time and class. Nothing here is a transformer."""

    patch_size = 1
    fixed_resolution = None
    max_timestep = 1000.0

    def __init__(self, *, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.time = nn.Linear(1, channels)
        self.label = nn.Embedding(NUM_CLASSES + 1, channels)
        self.second = nn.Conv2d(channels, 1, 3, padding=1)

    def predict(self, x_t: Tensor, condition: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x_t) + condition[:, :, None, None]))

    def forward(
        self, x_t: Tensor | Sequence[Tensor], timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        c = self.time(timestep[:, None] / self.max_timestep) + self.label(condition.class_label)
        if isinstance(x_t, Tensor):
            return BackboneOutput(self.predict(x_t, c))
        parts = c.split([len(x) for x in x_t])
        return BackboneOutput([self.predict(x, part) for x, part in zip(x_t, parts, strict=True)])


def make_backbone() -> ConvNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConvNet()


CASCADE = Cascade(image_size=8, num_stages=2, max_timestep=ConvNet.max_timestep)


def make_trainer(folder: Path, backbone: nn.Module, objective: Objective) -> Trainer:
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Trainer(
        state=TrainingState(
            network=Network(backbone),
            optimizer=torch.optim.AdamW(backbone.parameters(), lr=1e-2),
            objective=objective,
            ema=EMA(decay=0.9),
        ),
        flow=FlowParts(
            cascade=CASCADE,
            timesteps=UniformTimesteps(),
            prediction=VelocityPrediction(),
            conditioning=ClassLabel(num_classes=NUM_CLASSES),
        ),
        loader=MemoryLoader(images=images, labels=torch.arange(8) % NUM_CLASSES, batch_size=4, seed=1),
        checkpoints=CheckpointStore(folder),
        settings=TrainerSettings(max_steps=2, batch_size=4, save_every=0, log_every=1, device="cpu"),
        seed=7,
        config={},
    )


def test_it_trains_two_steps(tmp_path: Path) -> None:
    backbone = make_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert make_trainer(tmp_path, backbone, Objective(terms={"flow_matching": FlowMatching()})).fit() == 2
    for name, value in backbone.state_dict().items():
        assert torch.isfinite(value).all() and not torch.equal(value, before[name]), name


@pytest.mark.parametrize("guidance", [NoGuidance(), StageWiseGuidance(scale=2.0, num_stages=2)])
def test_it_samples(guidance: Any) -> None:
    backbone: Backbone = make_backbone()
    sampler = Sampler(
        backbone=backbone,
        cascade=CASCADE,
        prediction=VelocityPrediction(),
        solver=Euler(num_steps=2, num_stages=2),
        guidance=guidance,
        conditioning=ClassLabel(num_classes=NUM_CLASSES),
        channels=1,
    )
    samples = sampler.sample(Condition(torch.arange(3)), sampler.keyed_noise(range(3), seed=0))
    assert samples.x.shape == (3, 1, 8, 8) and torch.isfinite(samples.x).all() and samples.nfe == 4


def test_what_needs_blocks_names_the_attribute() -> None:
    for feature in (
        lambda model: compile_blocks(model, resolutions=[8], device=torch.device("cpu")),
        lambda model: checkpoint_blocks(model, "full"),
    ):
        with pytest.raises(ValueError, match=r"ConvNet has no list of blocks \(transformer_blocks or blocks\)"):
            feature(make_backbone())


def test_what_needs_features_or_a_last_layer_names_the_attribute(tmp_path: Path) -> None:
    flow_matching = FlowMatching()
    repa = Objective(terms={"fm": flow_matching, "repa": Repa(encoder="e", layer=0)}, encoders={"e": PatchEncoder()})
    with pytest.raises(ValueError, match=r"Repa needs features of the backbone, which has no `width`"):
        repa.prepare(width=None, assets=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"terms\.repa needs features .* ConvNet has no `width`"):
        make_trainer(tmp_path, make_backbone(), repa)
    terms = {"flow_matching": flow_matching, "lpips": Lpips(distance=lambda a, b: (a - b).flatten(1).mean(dim=1))}
    adaptive = Objective(terms=terms, adaptive=AdaptiveWeight(terms=["lpips"]))
    with pytest.raises(ValueError, match=r"adaptive needs a backbone with `last_layer\.weight`"):
        make_trainer(tmp_path, make_backbone(), adaptive)


def test_a_block_that_the_backbone_does_not_have(tmp_path: Path) -> None:
    backbone = make_backbone()
    backbone.width, backbone.depth = 8, 2  # type: ignore[assignment]
    objective = Objective(terms={"repa": Repa(encoder="e", layer=2)}, encoders={"e": PatchEncoder()})
    with pytest.raises(ValueError, match=r"terms\.repa\.layer=2 must be a block of the backbone, 0 to 1"):
        objective.check_backbone(backbone)
