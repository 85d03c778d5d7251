"""Compares with torch-fidelity, an independent implementation, with our extractor inside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pixelflow.metrics.evaluator import Evaluator, Reference
from pixelflow.metrics.features import TORCH_FIDELITY_NAME, DigitsFeatures, register_with_torch_fidelity
from pixelflow.metrics.inception_score import inception_score
from pixelflow.metrics.kid import kernel_distance
from pixelflow.metrics.precision_recall import precision_recall

torch_fidelity = pytest.importorskip("torch_fidelity")


class Images(Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def images(digits) -> tuple[Tensor, Tensor]:
    """300 samples, dimmed so that they differ, and 400 references."""
    train = digits[0].images
    return (train[:300].float() * 0.8).round().to(torch.uint8), train[300:700]


@pytest.fixture(scope="module")
def theirs(images: tuple[Tensor, Tensor]) -> dict[str, Any]:
    register_with_torch_fidelity()
    register_with_torch_fidelity()  # a second call does no harm
    return torch_fidelity.calculate_metrics(
        input1=Images(images[0]),
        input2=Images(images[1]),
        feature_extractor=TORCH_FIDELITY_NAME,
        fid=True,
        kid=True,
        prc=True,
        isc=True,
        isc_splits=3,
        samples_shuffle=False,
        kid_subset_size=150,
        kid_subsets=20,
        rng_seed=5,
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # no worker processes
        verbose=False,
    )


def test_the_evaluator_agrees(images: tuple[Tensor, Tensor], theirs: dict[str, Any], extractor: DigitsFeatures) -> None:
    reference = Reference.from_images(extractor, [images[1]], name="400 digits")
    evaluator = Evaluator(features=extractor, reference=reference)
    evaluator.update(images[0])
    ours = evaluator.compute()
    assert ours["fd_digits"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    # torch-fidelity compares distances in float32: one point on a border may fall either way.
    assert ours["precision"] == pytest.approx(theirs["precision"], abs=1.5 / 300)
    assert ours["recall"] == pytest.approx(theirs["recall"], abs=1.5 / 400)
    # Nothing here is trivially 0 or 1.
    assert ours["fd_digits"] > 0.1 and 0.1 < ours["precision"] < 0.99 and 0.1 < ours["recall"] < 0.99


def test_the_kernel_distance_agrees_subset_by_subset(
    images: tuple[Tensor, Tensor], theirs: dict[str, Any], extractor: DigitsFeatures
) -> None:
    pools = [extractor(part).pool for part in images]
    mean, std = kernel_distance(*pools, subset_size=150, num_subsets=20, seed=5)
    # Its kernel is float32, whose values are about 100 times the estimate.
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-4)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-2)
    assert std > 1e-3


def test_the_kernel_distance_agrees_in_float64() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 16, generator=generator, dtype=torch.float64)
    y = torch.randn(90, 16, generator=generator, dtype=torch.float64) + 0.3
    expected = kid_features_to_metric(x, y, kid_subset_size=60, kid_subsets=10, rng_seed=5, verbose=False)
    mean, std = kernel_distance(x, y, subset_size=60, num_subsets=10, seed=5)
    assert mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


def test_precision_and_recall_agree_in_float64() -> None:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    generator = torch.Generator().manual_seed(0)
    x = 1.2 * torch.randn(150, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(130, 4, generator=generator, dtype=torch.float64)
    assert precision_recall(x, y, k=5) == pytest.approx(calculate_precision_recall_full(x, y, 5), abs=1e-6)


def test_the_inception_score_agrees(
    images: tuple[Tensor, Tensor], theirs: dict[str, Any], extractor: DigitsFeatures
) -> None:
    probabilities = extractor(images[0]).logits.double().softmax(dim=1)
    got = inception_score(probabilities, split_size=100)
    assert got == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
