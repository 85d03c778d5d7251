"""Which images a loss sees, shown by the gradient of their predictions, and what is computed for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelflow.flow import VelocityPrediction, XPrediction
from pixelflow.losses import FlowMatching, GatedLoss, Lpips, Objective, PDino, Repa
from pixelflow.types import Prediction
from tests.unit.losses.stand_ins import PatchEncoder, predict

TAUS = [0.1, 0.29999, 0.3, 0.5, 0.9, 0.0]
PASS = torch.tensor([False, False, True, True, True, False])
STAGES = [0, 1, 1, 0, 1, 0]


def square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(dim=1)


def lpips() -> Lpips:
    return Lpips(distance=square, min_t=0.3)


def p_dino(gating: str = "gated") -> PDino:
    return PDino(encoder="patches", min_t=0.3, gating=gating)  # type: ignore[arg-type]


def gradients(objective: Objective, *, taus: list[float] = TAUS, prediction: Prediction) -> Tensor:
    """(B,) size of the gradient at each image's prediction."""
    predicted, batch = predict(taus, STAGES, prediction=prediction)
    value = objective(predicted, batch)
    sizes = torch.zeros(len(taus))
    if value.loss.requires_grad:
        value.loss.backward()
        for p in predicted:
            if p.raw.grad is not None:
                sizes[p.sample.index] = p.raw.grad.flatten(1).norm(dim=1)
    return sizes


@pytest.mark.parametrize("prediction", [XPrediction(), VelocityPrediction()], ids=["x", "velocity"])
@pytest.mark.parametrize("make", [lpips, p_dino], ids=["lpips", "p_dino"])
@pytest.mark.parametrize("pad_to", [None, 4])
def test_images_below_the_gate_get_exactly_no_gradient(
    make: type[GatedLoss], prediction: Prediction, pad_to: int | None
) -> None:
    """The gate is on tau within the stage: images of both stages pass and fail at the same tau."""
    objective = Objective(terms={"loss": make()}, encoders={"patches": PatchEncoder()}, pad_to=pad_to)
    sizes = gradients(objective, prediction=prediction)
    assert torch.equal(sizes > 0, PASS), sizes


def test_as_released_all_images_count_unless_none_passes() -> None:
    objective = Objective(terms={"loss": p_dino("as_released")}, encoders={"patches": PatchEncoder()})
    assert (gradients(objective, prediction=XPrediction()) > 0).all()
    assert (gradients(objective, taus=[0.1] * 6, prediction=XPrediction()) == 0).all()


@pytest.mark.parametrize("gating", ["gated", "as_released"])
def test_when_no_image_passes_nothing_is_encoded_and_the_value_is_zero(gating: str) -> None:
    encoder = PatchEncoder()
    objective = Objective(terms={"loss": p_dino(gating), "lpips": lpips()}, encoders={"patches": encoder})
    predicted, batch = predict([0.1] * 6, STAGES)
    value = objective(predicted, batch)
    assert value.loss.item() == 0 and value.terms == {} and encoder.calls == []


def test_a_gated_loss_is_the_mean_over_those_that_pass() -> None:
    predicted, batch = predict(TAUS, STAGES, prediction=XPrediction())
    value = Objective(terms={"lpips": lpips()})(predicted, batch)
    each = torch.zeros(6)
    for p in predicted:
        each[p.sample.index] = square(p.raw, p.sample.x).detach()
    torch.testing.assert_close(value.terms["lpips"], each[PASS].mean())
    torch.testing.assert_close(value.loss.detach(), each[PASS].mean())
    torch.testing.assert_close(value.stages[1], each[[2, 4]].mean())
    torch.testing.assert_close(value.stages[0], each[3])


def test_a_step_in_parts_gives_the_loss_and_gradient_of_the_whole() -> None:
    """Parts with different numbers of passing images, one with none."""

    def make() -> Objective:
        terms = {"fm": FlowMatching(), "lpips": lpips(), "p_dino": p_dino("as_released")}
        return Objective(terms=terms, encoders={"patches": PatchEncoder()})

    stages = [0] * 6
    (whole,), batch = predict(TAUS, stages)
    expected = make()([whole], batch)
    expected.loss.backward()
    (parted,), _ = predict(TAUS, stages)
    parts = []
    for rows in (torch.tensor([0, 1, 5]), torch.tensor([2, 3, 4])):
        part = make()([parted[rows]], batch, step_tau=torch.tensor(TAUS, dtype=torch.float64))
        part.loss.backward()
        parts.append(part)
    merged = type(expected).merged(parts)
    torch.testing.assert_close(merged.loss, expected.loss.detach())
    torch.testing.assert_close(parted.raw.grad, whole.raw.grad)
    for name in expected.terms:
        torch.testing.assert_close(merged.terms[name], expected.terms[name])
    torch.testing.assert_close(merged.stages[0], expected.stages[0])


def test_an_encoder_runs_once_for_all_losses_and_only_on_what_passes() -> None:
    encoder = PatchEncoder()
    other = PDino(encoder="patches", min_t=0.6)
    objective = Objective(terms={"a": p_dino(), "b": other}, encoders={"patches": encoder})
    predicted, batch = predict(TAUS, [1] * 6)
    objective(predicted, batch)
    assert encoder.calls == [3, 3]  # clean and predicted: the three with tau >= 0.3, for both losses
    with_repa = Objective(terms={"a": p_dino(), "repa": Repa(encoder="patches", layer=1, hidden=5)},
                          encoders={"patches": encoder})  # fmt: skip
    with_repa.prepare(width=8, assets=Path(), device="cpu")
    encoder.calls.clear()
    with_repa(predicted, batch)
    assert encoder.calls == [6, 3]  # REPA wants all clean images, P-DINO takes its three from them


def test_shared_features_are_those_of_the_right_image() -> None:
    """A loss alone and beside one with another gate: the same value."""
    predicted, batch = predict(TAUS, STAGES)
    alone = Objective(terms={"b": PDino(encoder="e", min_t=0.5)}, encoders={"e": PatchEncoder()})(predicted, batch)
    terms = {"a": PDino(encoder="e", min_t=0.1), "b": PDino(encoder="e", min_t=0.5)}
    for pad_to in (None, 2, 4):
        both = Objective(terms=terms, encoders={"e": PatchEncoder()}, pad_to=pad_to)(predicted, batch)
        torch.testing.assert_close(both.terms["b"], alone.terms["b"])


@pytest.mark.parametrize("passing", range(1, 9))
def test_padding_leaves_few_shapes(passing: int) -> None:
    encoder = PatchEncoder()
    objective = Objective(terms={"a": p_dino()}, encoders={"patches": encoder}, pad_to=4)
    predicted, batch = predict([0.5] * passing + [0.1] * (9 - passing), [1] * 9)
    value = objective(predicted, batch)
    assert encoder.calls == [4 if passing <= 4 else 8] * 2
    exact = Objective(terms={"a": p_dino()}, encoders={"patches": PatchEncoder()})(predicted, batch)
    torch.testing.assert_close(value.loss, exact.loss)


def test_zero_weight_loads_nothing() -> None:
    encoder = PatchEncoder()
    terms = {"fm": FlowMatching(), "off": PDino(encoder="patches", weight=0.0)}
    objective = Objective(terms=terms, encoders={"patches": encoder})
    objective.prepare(width=8, assets=Path("nowhere"), device="cpu")
    assert encoder.loaded == 0 and objective.encoders == {} and not list(objective.parameters())
    assert objective.state_dict() == {}


@pytest.mark.parametrize("min_t", [-0.1, 1.0])
def test_a_gate_out_of_range_is_refused(min_t: float) -> None:
    with pytest.raises(ValueError, match=r"min_t=.* must be in \[0, 1\)"):
        FlowMatching(min_t=min_t)
