"""Metrics that cannot measure the images of the data are refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pixelflow.config.suites import check_metrics
from pixelflow.config.validate import check_data
from pixelflow.errors import UserError
from pixelflow.jobs import find_job
from tests.conf.test_compose import composed

SHAPES = ["data=shapes", "cascade.num_stages=2"]


def check(*overrides: str) -> None:
    """Does what a command does before it starts its job."""
    config = composed(*overrides)
    check_data(config, find_job(config["job"]["name"]))


def test_data_without_fitting_metrics_are_refused_with_the_choices(tmp_path: Path) -> None:
    here = f"runs_dir={tmp_path}"
    with pytest.raises(UserError) as caught:
        check(*SHAPES, here)
    assert str(caught.value) == (
        "metrics.features._target_=pixelflow.metrics.features.DigitsFeatures does not fit data.name=shapes, "
        "data.image_size=64: the digits classifier measures digits, not shapes; use metrics=imagenet or metrics=shapes"
        "; if these are digits, data.name=digits"
    )
    check(*SHAPES, here, "job=train")  # which measures nothing
    check(*SHAPES, here, "metrics=imagenet", "metrics.reference=train")
    check(*SHAPES, here, "metrics=shapes")
    check(here)


def test_the_shapes_classifier_measures_shapes_in_colour() -> None:
    check_metrics(composed(*SHAPES, "metrics=shapes"))
    with pytest.raises(UserError, match=r"=64: .* 16 to 128 pixels with 3 channels; use metrics=imagenet;"):
        check_metrics(composed(*SHAPES, "metrics=shapes", "data.channels=1"))
    with pytest.raises(UserError, match=r"data\.image_size=256: .* 16 to 128 pixels .*; use metrics=imagenet;"):
        check_metrics(composed(*SHAPES, "metrics=shapes", "data.image_size=256"))
    with pytest.raises(UserError, match=r"the shapes classifier measures shapes, not digits; use metrics=digits"):
        check_metrics(composed("metrics=shapes"))


def test_digits_under_another_roof_are_named_so(tmp_path: Path) -> None:
    sizes = ["data.image_size=16", "data.channels=1", "data.num_classes=10"]
    folder = ["data=imagefolder", f"data.root={tmp_path}/birds", *sizes]
    with pytest.raises(UserError, match=r"does not fit data\.name=birds, data\.image_size=16"):
        check_metrics(composed(*folder))
    check_metrics(composed(*folder, "data.name=digits"))
    with pytest.raises(UserError, match=r"data\.image_size=128: .* 8 to 64 pixels .*; use metrics=imagenet$"):
        check_metrics(composed(*folder, "data.name=digits", "data.image_size=128"))


def test_a_reference_of_another_size_is_refused(tmp_path: Path) -> None:
    call = [*SHAPES, "metrics=imagenet", f"assets.root={tmp_path}"]
    with pytest.raises(UserError) as caught:
        check_metrics(composed(*call))
    assert str(caught.value) == (
        "metrics.reference=VIRTUAL_imagenet256_labeled.npz has images of 256 pixels, and data.image_size=64: "
        "use VIRTUAL_imagenet64_labeled.npz, train, held_out or a file of that size"
    )
    check_metrics(composed(*call, "metrics.reference=VIRTUAL_imagenet64_labeled.npz"))
    for side in (32, 64):
        np.savez(tmp_path / f"{side}.npz", arr_0=np.zeros((2, side, side, 3), np.uint8))
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(
        UserError, match=r"metrics\.reference=.*32\.npz has images of 32 pixels, and data\.image_size=64"
    ):
        check_metrics(composed(*call, f"metrics.reference={tmp_path / '32.npz'}"))
    for fitting in ("64.npz", "statistics.npz"):
        check_metrics(composed(*call, f"metrics.reference={tmp_path / fitting}"))
    check_metrics(composed(*call, "job=evaluate", f"samples={tmp_path / '32.npz'}", "metrics.reference=train"))
