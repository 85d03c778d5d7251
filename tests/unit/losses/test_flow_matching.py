from __future__ import annotations

import pytest
import torch

from pixelflow.flow import Cascade, VelocityPrediction, XPrediction
from pixelflow.losses import FlowMatching
from pixelflow.types import Batch, Condition, FlowSample, Predicted

BATCH = Batch(torch.randn(4, 3, 16, 16), Condition(torch.zeros(4, dtype=torch.int64)), torch.arange(4))


def sample_of(stage: int, tau: float = 0.4) -> FlowSample:
    cascade = Cascade(image_size=16, num_stages=2)
    noise = torch.randn(4, 3, *[cascade.resolution(stage)] * 2)
    taus = torch.full((4,), tau, dtype=torch.float64)
    return cascade.flow_sample(BATCH.x, stage=stage, tau=taus, noise=noise, index=torch.arange(4))


def test_one_mean_square_per_image() -> None:
    sample = sample_of(1)
    raw = torch.randn_like(sample.x)
    got = FlowMatching()(sample, Predicted(raw, sample, VelocityPrediction()), BATCH)
    expected = [((raw[i] - sample.velocity[i]) ** 2).mean() for i in range(4)]
    torch.testing.assert_close(got, torch.stack(expected))


def test_an_image_has_the_same_weight_at_every_resolution() -> None:
    for stage in (0, 1):
        sample = sample_of(stage)
        predicted = Predicted(sample.velocity + 2, sample, VelocityPrediction())
        torch.testing.assert_close(FlowMatching()(sample, predicted, BATCH), torch.full((4,), 4.0))


def test_an_image_prediction_is_compared_as_velocity() -> None:
    """A clean image that is off by 1 everywhere; down and up leave a constant as it is, so the shift has a formula."""
    sample = sample_of(1)
    predicted = Predicted(sample.x + 1, sample, XPrediction())
    off = predicted.velocity - predicted.target_velocity
    path, tau = sample.path, sample.tau[:, None, None, None]
    start, end = path.start, path.end  # type: ignore[attr-defined]
    sigma = path.sigma(tau)
    expected = ((end - start) * (sigma + tau * end + (1 - tau) * start) / sigma).float().expand_as(off)
    torch.testing.assert_close(off, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(FlowMatching()(sample, predicted, BATCH), expected.square().mean(dim=(1, 2, 3)))


def test_a_perfect_image_has_zero_loss_at_the_end_of_the_path() -> None:
    sample = sample_of(1, tau=1.0)
    assert FlowMatching()(sample, Predicted(sample.x, sample, XPrediction()), BATCH).eq(0).all()


def test_half_precision_is_compared_in_float32() -> None:
    sample = sample_of(1)
    raw = (sample.velocity + 0.01).bfloat16()
    got = FlowMatching()(sample, Predicted(raw, sample, VelocityPrediction()), BATCH)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, (raw.float() - sample.velocity).square().flatten(1).mean(dim=1))


def test_a_limit_of_the_weight_of_late_times() -> None:
    """At tau = 0.9 of the last stage an error of x has the weight 100, of which a limit of 4 leaves 4."""
    for tau, weight in ((0.9, 4.0), (0.4, 1 / 0.6**2)):
        sample = sample_of(1, tau)
        off = torch.randn_like(sample.x)
        got = FlowMatching(max_weight=4.0)(sample, Predicted(sample.x + off, sample, XPrediction()), BATCH)
        torch.testing.assert_close(got, weight * off.square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=1e-4)
        assert got.dtype == torch.float32


def test_the_limit_holds_for_each_image() -> None:
    """Images of one stage at different times, and any prediction: the value is multiplied by min(1, limit / w)."""
    cascade = Cascade(image_size=16, num_stages=2)
    tau = torch.tensor([0.1, 0.5, 0.8, 1.0], dtype=torch.float64)
    for stage in (0, 1):
        noise = torch.randn(4, 3, *[cascade.resolution(stage)] * 2)
        sample = cascade.flow_sample(BATCH.x, stage=stage, tau=tau, noise=noise, index=torch.arange(4))
        predicted = Predicted(torch.randn_like(sample.x), sample, VelocityPrediction())
        w = [float(sample.path.x_error_weight(tau[i : i + 1])) for i in range(4)]
        plain = FlowMatching()(sample, predicted, BATCH)
        expected = [value * min(1.0, 0.5 / weight) for value, weight in zip(plain.tolist(), w, strict=True)]
        assert FlowMatching(max_weight=0.5)(sample, predicted, BATCH).tolist() == pytest.approx(expected)
        assert torch.equal(FlowMatching(max_weight=1e9)(sample, predicted, BATCH), plain)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_no_weight_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="max_weight="):
        FlowMatching(max_weight=limit)
