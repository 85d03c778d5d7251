"""The state of an optimizer in a checkpoint is compared with that of the run's optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pixelflow.training.reader import CheckpointError, load_checkpoint
from pixelflow.training.state import _slot_names
from tests.unit.training.test_trainer import make_trainer


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.AdamW, {}), (torch.optim.AdamW, {"amsgrad": True}), (torch.optim.Adam, {}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.SGD, {"lr": 0.1}), (torch.optim.RMSprop, {}),
        (torch.optim.RAdam, {}), (torch.optim.NAdam, {}), (torch.optim.Adagrad, {}), (torch.optim.Adadelta, {}),
    ],
)  # fmt: skip
def test_the_tensors_of_an_optimizer_are_known_before_its_first_step(kind: Any, settings: dict[str, Any]) -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = kind([parameter], **settings)
    names = _slot_names(optimizer)
    parameter.grad = torch.ones(3, 4)
    optimizer.step()
    made = {name: value for name, value in optimizer.state[parameter].items() if isinstance(value, torch.Tensor)}
    assert names == {name: value.shape == (3, 4) for name, value in made.items()}


@pytest.mark.parametrize("number", ["0", "5"])
@pytest.mark.parametrize("slot", ["step", "exp_avg", "exp_avg_sq"])
def test_a_renamed_tensor_of_the_optimizer_is_refused(slot: str, number: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit()
    checkpoint = load_checkpoint(tmp_path / "step_00000001")
    slots = dict(checkpoint.tensors["optimizer"])
    slots[f"{number}.{slot}s"] = slots.pop(f"{number}.{slot}")
    with pytest.raises(CheckpointError, match=rf"'{number}.{slot}s' belongs to no parameter"):
        trainer.state.load(replace(checkpoint, tensors={**checkpoint.tensors, "optimizer": slots}))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("betas", [0.9, 2**31], "beta parameter"), ("eps", -1.0, "epsilon"), ("weight_decay", -0.5, "weight_decay")],
)
def test_settings_that_the_optimizer_does_not_accept_are_refused(
    key: str, value: Any, named: str, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit()
    checkpoint = load_checkpoint(tmp_path / "step_00000001")
    checkpoint.state["optimizer_groups"][0][key] = value  # type: ignore[index]
    with pytest.raises(CheckpointError, match=rf"state.json is damaged: optimizer_groups\[0\]: Invalid {named}"):
        trainer.state.load(checkpoint)
