from __future__ import annotations

import pytest
import torch

from pixelflow.flow import Cascade, VelocityPrediction, XPrediction
from pixelflow.types import FlowSample, Predicted, Prediction

PREDICTIONS = [VelocityPrediction(), XPrediction()]
STAGES = [(num_stages, stage) for num_stages in (1, 2, 3, 4) for stage in range(num_stages)]


def sample_of(num_stages: int, stage: int, most_tau: float = 0.8) -> FlowSample:
    cascade = Cascade(image_size=8 * 2 ** (num_stages - 1), num_stages=num_stages)
    generator = torch.Generator().manual_seed(stage)
    x = torch.randn(8, 3, cascade.image_size, cascade.image_size, dtype=torch.float64, generator=generator)
    noise = torch.randn(8, 3, *[cascade.resolution(stage)] * 2, dtype=torch.float64, generator=generator)
    tau = torch.linspace(0, most_tau, 8, dtype=torch.float64)
    return cascade.flow_sample(x, stage=stage, tau=tau, noise=noise, index=torch.arange(8))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_a_perfect_network_gives_the_true_values(num_stages: int, stage: int, prediction: Prediction) -> None:
    sample = sample_of(num_stages, stage)
    predicted = Predicted(prediction.target(sample), sample, prediction)
    torch.testing.assert_close(predicted.velocity, sample.velocity, atol=1e-9, rtol=0)
    torch.testing.assert_close(predicted.target_velocity, sample.velocity, atol=1e-9, rtol=0)
    torch.testing.assert_close(predicted.x_pred, sample.x, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_the_predicted_quantity_is_returned_unchanged(num_stages: int, stage: int) -> None:
    sample = sample_of(num_stages, stage)
    raw = torch.randn_like(sample.x)
    assert Predicted(raw, sample, VelocityPrediction()).velocity is raw
    assert Predicted(raw, sample, XPrediction()).x_pred is raw


@pytest.mark.parametrize(("num_stages", "stage"), STAGES)
def test_each_kind_of_prediction_can_be_converted_to_the_other(num_stages: int, stage: int) -> None:
    """The velocity that an x-network implies, given to a velocity-network, implies the same x."""
    sample = sample_of(num_stages, stage)
    raw = torch.randn_like(sample.x)
    velocity = Predicted(raw, sample, XPrediction()).velocity
    torch.testing.assert_close(Predicted(velocity, sample, VelocityPrediction()).x_pred, raw, atol=1e-9, rtol=0)


def test_both_velocities_of_x_prediction_use_the_same_clamp() -> None:
    """At tau = 1 a perfect output must cost nothing, although the clamped velocity is not the path's."""
    sample = sample_of(2, 1, most_tau=1.0)
    predicted = Predicted(sample.x, sample, XPrediction())
    assert torch.equal(predicted.velocity, predicted.target_velocity)
    assert not torch.allclose(predicted.target_velocity, sample.velocity)
