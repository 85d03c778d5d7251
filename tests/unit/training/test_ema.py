from __future__ import annotations

import pytest
import torch
from torch import nn

from pixelflow.training.ema import EMA


def scalar(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_against_a_hand_computation() -> None:
    model, ema = scalar(1.0), EMA(decay=0.5)
    ema.attach(model)
    assert ema.model is not None
    average = 1.0
    for step, value in enumerate([2.0, -3.0, 5.0, 8.0, 0.5, 7.0, 1.0, 4.0, 6.0], start=1):
        nn.init.constant_(model.weight, value)
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
        assert ema.model.weight.item() == pytest.approx(average, rel=1e-6)
    assert decay == 0.5  # the limit was reached, from 2/11 on


def test_late_steps_use_the_decay_itself() -> None:
    model, ema = scalar(0.0), EMA(decay=0.9)
    ema.attach(model)
    assert ema.model is not None
    nn.init.constant_(model.weight, 1.0)
    ema.update(model, 1000)
    assert ema.model.weight.item() == pytest.approx(0.1)


def test_a_decay_of_zero_follows_the_model() -> None:
    model, ema = scalar(0.0), EMA(decay=0.0)
    ema.attach(model)
    assert ema.model is not None
    nn.init.constant_(model.weight, 3.0)
    ema.update(model, 1)
    assert ema.model.weight.item() == 3.0


def test_the_average_is_a_copy_without_gradients_in_eval_mode() -> None:
    model, ema = nn.Sequential(nn.Linear(2, 2), nn.Dropout()), EMA(decay=0.9)
    ema.attach(model)
    assert ema.model is not None
    assert not ema.model.training
    assert model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    with torch.no_grad():
        model[0].weight.add_(1)
    assert not torch.equal(ema.model[0].weight, model[0].weight)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay={decay} must be in"):
        EMA(decay=decay)
