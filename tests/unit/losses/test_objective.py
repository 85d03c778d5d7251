from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelflow.flow import Cascade, VelocityPrediction
from pixelflow.losses import FlowMatching, GatedLoss, Objective, ObjectiveValue
from pixelflow.types import Batch, Condition, FlowSample, Predicted

N = 7
CASCADE = Cascade(image_size=16, num_stages=3)
BATCH = Batch(torch.randn(N, 1, 16, 16), Condition(torch.arange(N)), torch.arange(N))


class Forbidden(GatedLoss):
    """A loss of weight zero that must not be computed."""

    def __init__(self, *, weight: float = 0.0) -> None:
        super().__init__(weight=weight)

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        raise AssertionError("a loss of weight zero was computed")


class LabelLoss(GatedLoss):
    """The labels of the images, so that a test can tell whose value is whose."""

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        assert torch.equal(CASCADE.image_at(batch.x, sample.path.stage), sample.x)
        return batch.condition.class_label.float() + 0 * predicted.raw.mean(dim=(1, 2, 3))


def predict(stages: list[int], raw: float = 0.0) -> list[Predicted]:
    """Returns the predictions of a constant network for a batch divided among `stages`."""
    predicted = []
    for stage in sorted(set(stages)):
        index = torch.tensor([i for i, s in enumerate(stages) if s == stage])
        side = CASCADE.resolution(stage)
        noise = torch.zeros(len(index), 1, side, side)
        tau = torch.full((len(index),), 0.5)
        sample = CASCADE.flow_sample(BATCH.x[index], stage=stage, tau=tau, noise=noise, index=index)
        output = torch.full_like(sample.x, raw, requires_grad=True)
        predicted.append(Predicted(output, sample, VelocityPrediction()))
    return predicted


def value_of(stages: list[int], **weights: float) -> ObjectiveValue:
    return Objective(terms={name: LabelLoss(weight=weight) for name, weight in weights.items()})(predict(stages), BATCH)


def test_weighted_sum_averaged_over_all_images() -> None:
    value = value_of([0, 1, 2, 0, 1, 2, 0], a=2.0, b=0.5)
    mean = sum(range(N)) / N
    assert value.loss.item() == pytest.approx(2.5 * mean)
    assert {name: term.item() for name, term in value.terms.items()} == pytest.approx({"a": mean, "b": mean})


def test_mean_of_each_stage() -> None:
    value = value_of([0, 2, 2, 0, 2, 2, 0], a=2.0)
    assert {stage: loss.item() for stage, loss in value.stages.items()} == pytest.approx(
        {0: 2 * (0 + 3 + 6) / 3, 2: 2 * (1 + 2 + 4 + 5) / 4}
    )
    assert value.images == {0: 3, 2: 4}


@pytest.mark.parametrize("stages", [[0] * N, [2] * N, [0, 0, 0, 1, 1, 1, 1], [2, 1, 0, 2, 1, 0, 2]])
def test_independent_of_how_the_batch_is_split_in_stages(stages: list[int]) -> None:
    assert value_of(stages, a=1.0).loss.item() == pytest.approx(sum(range(N)) / N)


def test_every_image_has_the_same_share_of_the_gradient() -> None:
    predicted = predict([0, 1, 1, 1, 1, 1, 1], raw=1.0)
    Objective(terms={"a": FlowMatching()})(predicted, BATCH).loss.backward()
    for p in predicted:
        error = p.raw - p.sample.velocity
        torch.testing.assert_close(p.raw.grad, 2 * error.detach() / error[0].numel() / N)


def test_a_loss_of_weight_zero_is_never_computed() -> None:
    value = Objective(terms={"a": LabelLoss(weight=1.0), "off": Forbidden()})(predict([0] * N), BATCH)
    assert set(value.terms) == {"a"}


def test_the_guard_of_the_test_above_works() -> None:
    loss = Forbidden(weight=1.0)
    with pytest.raises(AssertionError, match="was computed"):
        Objective(terms={"off": loss})(predict([0] * N), BATCH)


@pytest.mark.parametrize("terms", [{}, {"off": Forbidden()}, {"a": FlowMatching(weight=0.0), "off": Forbidden()}])
def test_an_objective_without_terms_is_refused(terms: dict[str, FlowMatching | Forbidden]) -> None:
    with pytest.raises(ValueError, match="at least one loss needs a weight other than 0"):
        Objective(terms=terms)


def test_only_the_loss_carries_a_gradient() -> None:
    value = value_of([0, 1, 2, 0, 1, 2, 0], a=1.0)
    assert value.loss.requires_grad
    assert not any(t.requires_grad for t in [*value.terms.values(), *value.stages.values()])
