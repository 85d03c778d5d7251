from __future__ import annotations

import pytest
import torch

from pixelflow.flow import Cascade, VelocityPrediction, XPrediction
from pixelflow.losses import CleanImage
from pixelflow.types import Batch, Condition, Predicted, Prediction

BATCH = Batch(torch.randn(4, 3, 16, 16), Condition(torch.zeros(4, dtype=torch.int64)), torch.arange(4))


@pytest.mark.parametrize("prediction", [XPrediction(), VelocityPrediction()])
@pytest.mark.parametrize("stage", [0, 1])
def test_the_error_of_x_at_any_time_and_prediction(stage: int, prediction: Prediction) -> None:
    """The raw output of a network whose clean image is off by `off`: every time has the weight 1."""
    cascade = Cascade(image_size=16, num_stages=2)
    noise = torch.randn(4, 3, *[cascade.resolution(stage)] * 2)
    tau = torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    sample = cascade.flow_sample(BATCH.x, stage=stage, tau=tau, noise=noise, index=torch.arange(4))
    off = torch.randn_like(sample.x)
    image = sample.x + off
    raw = image if isinstance(prediction, XPrediction) else sample.path.velocity_from_x(image, sample.x_t, tau)
    got = CleanImage()(sample, Predicted(raw, sample, prediction), BATCH)
    expected = torch.stack([(off[i] ** 2).mean() for i in range(4)])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_compared_in_float32() -> None:
    cascade = Cascade(image_size=16, num_stages=1)
    tau = torch.full((4,), 0.5, dtype=torch.float64)
    sample = cascade.flow_sample(BATCH.x, stage=0, tau=tau, noise=torch.randn_like(BATCH.x), index=torch.arange(4))
    raw = (sample.x + 0.01).bfloat16()
    got = CleanImage()(sample, Predicted(raw, sample, XPrediction()), BATCH)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, (raw.float() - sample.x).square().flatten(1).mean(dim=1))
