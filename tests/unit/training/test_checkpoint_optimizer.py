"""The state of an optimizer in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelflow.training.checkpoint import CheckpointStore, flatten_optimizer, load_checkpoint, restore_optimizer


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def trained(steps: int, seed: int) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.3)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()


def test_an_optimizer_goes_on_as_if_it_had_never_stopped(store: CheckpointStore) -> None:
    model, optimizer = trained(3, seed=0)
    slots, groups = flatten_optimizer(optimizer)
    path = store.save(3, {"model": model.state_dict(), "optimizer": slots}, {"groups": groups})
    other, other_optimizer = trained(0, seed=1)
    loaded = load_checkpoint(path)
    other.load_state_dict(loaded.tensors["model"])
    state: dict[str, Any] = json.loads(json.dumps(loaded.state))
    restore_optimizer(other_optimizer, loaded.tensors["optimizer"], state["groups"])
    assert other_optimizer.param_groups[0]["weight_decay"] == 0.3
    for _ in range(3):
        step(model, optimizer)
        step(other, other_optimizer)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_a_fresh_optimizer_has_nothing_to_flatten(store: CheckpointStore) -> None:
    _, optimizer = trained(0, seed=0)
    slots, groups = flatten_optimizer(optimizer)
    path = store.save(1, {"optimizer": slots}, {"groups": groups})
    loaded = load_checkpoint(path)
    restore_optimizer(optimizer, loaded.tensors["optimizer"], loaded.state["groups"])
    assert slots == {}
