from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from pixelflow.losses import Objective, Repa
from pixelflow.losses.repa import resize_tokens
from tests.unit.losses.stand_ins import PatchEncoder, predict


def objective() -> tuple[Objective, Repa]:
    torch.manual_seed(0)
    loss = Repa(encoder="patches", layer=1, hidden=5, weight=2.0)
    made = Objective(terms={"repa": loss}, encoders={"patches": PatchEncoder()})
    made.prepare(width=8, assets=Path(), device="cpu")
    return made, loss


def test_against_its_formula() -> None:
    made, loss = objective()
    (p,), batch = predict([0.2] * 3, [1] * 3)
    value = made([p], batch)
    h = F.silu(loss.projection[0](p.features[1]))
    projected = loss.projection[4](F.silu(loss.projection[2](h)))
    clean = PatchEncoder()(p.sample.x)
    cosine = (projected * clean).sum(-1) / projected.norm(dim=-1) / clean.norm(dim=-1)
    torch.testing.assert_close(value.terms["repa"], 1 - cosine.mean().detach())
    torch.testing.assert_close(value.loss.detach(), 2 * (1 - cosine.mean().detach()))


def test_the_projection_is_trained_and_saved_and_the_encoder_is_not() -> None:
    made, loss = objective()
    assert made.layers == (1,)
    assert len(list(made.parameters())) == 6
    assert all(name.startswith("trained.repa.projection.") for name in made.state_dict())
    predicted, batch = predict([0.2] * 3, [1] * 3)
    made(predicted, batch).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())
    assert predicted[0].features[1].grad is not None


def test_tokens_of_another_grid_are_resized() -> None:
    tokens = torch.randn(2, 64, 3)
    halved = resize_tokens(tokens, 16)
    square = tokens.transpose(1, 2).unflatten(2, (8, 8))
    expected = F.interpolate(square, size=(4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(halved, expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(resize_tokens(torch.ones(1, 16, 2), 64), torch.ones(1, 64, 2))
    assert resize_tokens(tokens, 64) is tokens
