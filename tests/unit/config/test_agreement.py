"""The terms of an objective are computed before anything is allocated or written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.config.agreement import check_terms
from pixelflow.errors import UserError
from pixelflow.flow import Cascade, VelocityPrediction
from pixelflow.losses import FlowMatching, Lpips, Objective, VGGDistance
from pixelflow.losses.gated import GatedLoss
from pixelflow.types import Batch, FlowSample, Predicted


class Mean(GatedLoss):
    """Returns one value for all images instead of one per image."""

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        return (predicted.x_pred - sample.x).square().mean()


class FullSize(GatedLoss):
    """Compares with the images at full resolution, which only the last stage has."""

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        return (predicted.x_pred - batch.x).square().mean(dim=(1, 2, 3))


class OfValues(GatedLoss):
    """Depends on values, which the meta device does not compute."""

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        scale = 1.0 if predicted.x_pred.max().item() > 1 else 0.5
        return scale * predicted.x_pred.square().mean(dim=(1, 2, 3))


def check(loss: Any, *, num_stages: int = 2, image_size: int = 16) -> None:
    config = {
        "data": {"channels": 1, "image_size": image_size},
        "objective": {"terms": {"mine": {"_target_": f"mylib.{type(loss).__name__}"}}},
    }
    cascade = Cascade(image_size=image_size, num_stages=num_stages)
    check_terms(config, Objective(terms={"mine": loss}), cascade, VelocityPrediction())


@pytest.mark.parametrize("loss", [FlowMatching(), OfValues(), Lpips(distance=lambda a, b: (a - b).mean(dim=(1, 2, 3)))])
def test_terms_that_fit(loss: Any) -> None:
    check(loss)


def test_one_value_per_image() -> None:
    with pytest.raises(
        UserError, match=r"objective.terms.mine._target_=mylib.Mean must return one value per image.*\(\)"
    ):
        check(Mean())


def test_a_term_that_fits_one_stage_only() -> None:
    check(FullSize(), num_stages=1)
    with pytest.raises(UserError, match=r"mylib.FullSize cannot be computed for images of 1 x 8 x 8"):
        check(FullSize())


def test_images_too_small_for_a_frozen_network() -> None:
    check(Lpips(distance=VGGDistance(file=None, image_size=16)))
    check(Lpips(distance=VGGDistance(file=None)), num_stages=1)
    with pytest.raises(UserError, match=r"terms.mine: VGGDistance needs images of at least 16 pixels.*have 8"):
        check(Lpips(distance=VGGDistance(file=None)))
    with pytest.raises(ValueError, match="image_size=8 must be at least 16"):
        VGGDistance(image_size=8)


def test_nothing_is_allocated() -> None:
    check(FlowMatching(), image_size=16_384)
    assert torch.empty(0).device.type == "cpu"
