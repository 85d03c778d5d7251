from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelflow.losses import AdaptiveWeight, FlowMatching, Lpips, Objective
from tests.unit.losses.stand_ins import predict


def observed(adaptive: AdaptiveWeight, *scales: tuple[float, float]) -> Tensor:
    """Takes one step in parts with gradients of these sizes, and returns the value after it."""
    weight = torch.zeros(2, requires_grad=True)
    for reference, adapted in scales:
        adaptive.observe(reference * weight[0], adapted * weight[1], weight)
    adaptive.update()
    return adaptive.value


def test_the_formula() -> None:
    adaptive = AdaptiveWeight(terms=["lpips"])
    first = observed(adaptive, (3.0, 0.5)).item()
    assert first == pytest.approx(0.8 + 0.2 * 3 / 0.5001)
    assert observed(adaptive, (1.0, 2.0)).item() == pytest.approx(0.8 * first + 0.2 / 2.0001)


def test_the_ratio_is_clamped() -> None:
    assert observed(AdaptiveWeight(terms=["a"]), (1e6, 1e-3)).item() == pytest.approx(0.8 + 0.2 * 100)


def test_gradients_of_parts_are_added_before_their_size_is_taken() -> None:
    whole = observed(AdaptiveWeight(terms=["a"]), (3.0, 0.5)).item()
    assert observed(AdaptiveWeight(terms=["a"]), (4.0, 0.2), (-1.0, 0.3)).item() == pytest.approx(whole)


def test_a_step_without_passing_images_changes_nothing() -> None:
    adaptive = AdaptiveWeight(terms=["a"])
    weight = torch.zeros(2, requires_grad=True)
    adaptive.observe(weight.sum(), torch.zeros(()), weight)
    adaptive.update()
    assert adaptive.value.item() == 1


def test_steps_of_the_measurements() -> None:
    adaptive = AdaptiveWeight(terms=["a"], start_step=100, every=50)
    assert [step for step in range(0, 260) if adaptive.due(step)] == [100, 150, 200, 250]


def test_it_multiplies_its_terms_alone() -> None:
    def lpips(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(dim=1)

    adaptive = AdaptiveWeight(terms=["lpips"])
    adaptive.value.fill_(3.0)
    terms = {"flow_matching": FlowMatching(), "lpips": Lpips(distance=lpips, weight=0.5)}
    objective = Objective(terms=terms, adaptive=adaptive)
    value = objective(*predict([0.5] * 4, [1] * 4))
    expected = value.terms["flow_matching"] + 3 * 0.5 * value.terms["lpips"]
    torch.testing.assert_close(value.loss.detach(), expected)
    torch.testing.assert_close(value.stages[1], expected)
    assert value.adapted is not None and value.reference is not None
    torch.testing.assert_close(value.adapted.detach(), 0.5 * value.terms["lpips"])
    torch.testing.assert_close(value.reference.detach(), value.terms["flow_matching"])
    assert list(objective.state_dict()) == ["adaptive.value"]


def test_without_its_terms_it_is_left_out() -> None:
    terms = {"flow_matching": FlowMatching(), "lpips": Lpips(distance=torch.sub, weight=0.0)}
    assert Objective(terms=terms, adaptive=AdaptiveWeight(terms=["lpips"])).adaptive is None
    with pytest.raises(ValueError, match="adaptive names vgg, which is not among the terms flow_matching, lpips"):
        Objective(terms=terms, adaptive=AdaptiveWeight(terms=["vgg"]))
