from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelflow.metrics.evaluator import Evaluator, Reference
from pixelflow.metrics.features import DigitsFeatures, Features


class MeanFeatures:
    """Mean of each quarter of the image; names no classes."""

    name = short = fingerprint = "quarters"
    num_features, num_spatial, preprocessing = 4, 0, "none"
    metrics = ("frechet", "kid", "precision_recall", "accuracy")

    def needs(self) -> list[str]:
        return []

    def load(self, folder: Path, device: torch.device | str) -> None: ...

    def __call__(self, images: Tensor) -> Features:
        pool = torch.nn.functional.adaptive_avg_pool2d(images.float().mean(dim=1), 2).flatten(1)
        return Features(pool=pool, logits=None)


@pytest.fixture(scope="module")
def reference(extractor: DigitsFeatures, digits) -> Reference:
    return Reference.from_images(extractor, digits[0].images[:600].split(100), name="600 digits, 16 px")


def evaluate(
    extractor: DigitsFeatures, reference: Reference, images: Tensor, labels: Tensor | None
) -> dict[str, float]:
    evaluator = Evaluator(features=extractor, reference=reference)
    evaluator.update(images, labels)
    return evaluator.compute()


def test_real_digits_are_near_and_spoiled_ones_are_not(extractor, reference, digits) -> None:
    images, labels = digits[1].images, digits[1].labels
    real = evaluate(extractor, reference, images, labels)
    assert set(real) == {
        "fd_digits", "kid_digits", "kid_digits_std", "kid_digits_se", "precision", "recall", "num_samples", "accuracy",
    }  # fmt: skip
    assert real["num_samples"] == 297 and real["accuracy"] >= 0.97
    assert real["fd_digits"] < 1 and real["precision"] > 0.7 and real["recall"] > 0.7

    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 60
    noisy = evaluate(extractor, reference, (images + noise).clamp(0, 255).to(torch.uint8), labels)
    assert noisy["fd_digits"] > 5 * real["fd_digits"] and noisy["kid_digits"] > real["kid_digits"]
    assert noisy["precision"] < real["precision"]

    collapsed = evaluate(extractor, reference, images[labels == 3], labels[labels == 3])
    assert collapsed["recall"] < 0.3 and collapsed["precision"] > 0.7 and collapsed["accuracy"] > 0.9


def test_accuracy_counts_the_labels(extractor, reference, digits) -> None:
    images, labels = digits[1].images[:100], digits[1].labels[:100].clone()
    right = evaluate(extractor, reference, images, labels)["accuracy"]
    labels[:40] = (labels[:40] + 1) % 10
    assert evaluate(extractor, reference, images, labels)["accuracy"] == pytest.approx(right - 0.4, abs=0.011)


def test_accuracy_is_left_out_without_labels_or_logits(extractor, reference, digits) -> None:
    images, labels = digits[1].images[:20], digits[1].labels[:20]
    assert "accuracy" not in evaluate(extractor, reference, images, None)
    quarters = MeanFeatures()
    result = evaluate(quarters, Reference.from_images(quarters, [images], name="20"), images, labels)
    assert "accuracy" not in result and result["fd_quarters"] == pytest.approx(0, abs=1e-6)
    assert result["precision"] == result["recall"] == 1


def test_order_batches_and_parts_change_nothing(extractor, digits) -> None:
    train, held_out = digits
    references = [
        Reference.from_images(extractor, train.images[:300].split(300), name="300"),
        Reference.from_images(extractor, train.images[:300].flip(0).split(7), name="300"),
    ]
    images, labels = held_out.images, held_out.labels

    def evaluator(reference: Reference, index: Tensor, batch_size: int) -> Evaluator:
        result = Evaluator(features=extractor, reference=reference, kid_subset_size=50, kid_num_subsets=5)
        for part in index.split(batch_size):
            result.update(images[part], labels[part])
        return result

    everything = torch.arange(297)
    expected = evaluator(references[0], everything, 297).compute()
    shuffled = torch.randperm(297, generator=torch.Generator().manual_seed(0))
    merged = evaluator(references[0], everything[1::2], 64)
    merged.merge(evaluator(references[1], everything[::2], 30))
    for other in (evaluator(references[1], everything, 7), evaluator(references[0], shuffled, 64), merged):
        assert other.compute() == pytest.approx(expected, rel=1e-5)


def test_the_subsets_of_the_kernel_distance_are_seeded(extractor, reference, digits) -> None:
    def kid(seed: int) -> float:
        evaluator = Evaluator(features=extractor, reference=reference, kid_subset_size=40, kid_num_subsets=3, seed=seed)
        evaluator.update(digits[1].images[:100])
        return evaluator.compute()["kid_digits"]

    assert kid(0) == kid(0) != kid(1)


def test_a_reference_of_another_extractor_is_refused(reference) -> None:
    with pytest.raises(ValueError, match=r"64 features of 'digits-cnn'.*measured with 'quarters'"):
        Evaluator(features=MeanFeatures(), reference=reference)


def test_too_few_images_are_refused(extractor, reference, digits) -> None:
    evaluator = Evaluator(features=extractor, reference=reference, k=3)
    with pytest.raises(ValueError, match="0 samples are too few"):
        evaluator.compute()
    evaluator.update(digits[1].images[:3])
    with pytest.raises(ValueError, match="3 samples are too few: precision and recall need at least 4"):
        evaluator.compute()
    evaluator.update(digits[1].images[3:4])
    assert evaluator.compute()["num_samples"] == 4

    small = Reference.from_images(extractor, [digits[0].images[:3]], name="3")
    few = Evaluator(features=extractor, reference=small)
    few.update(digits[1].images[:10])
    with pytest.raises(ValueError, match="3 reference images are too few"):
        few.compute()
    with pytest.raises(ValueError, match="'none' has no images"):
        Reference.from_images(extractor, [], name="none")


def test_bad_images_and_labels_are_refused_and_leave_nothing_behind(extractor, reference, digits) -> None:
    images = digits[1].images[:4]
    evaluator = Evaluator(features=extractor, reference=reference)
    with pytest.raises(ValueError, match=r"images must be uint8 \(B, C, H, W\), got torch.float32 \(4, 1, 16, 16\)"):
        evaluator.update(images.float())
    with pytest.raises(ValueError, match=r"labels must be 4 classes in 0..9, .* values \[0, 10\]"):
        evaluator.update(images, torch.tensor([0, 0, 0, 10]))  # 10 is the null label
    with pytest.raises(ValueError, match=r"labels must be 4 classes in 0..9, got shape \(3,\)"):
        evaluator.update(images, torch.tensor([0, 1, 2]))
    assert evaluator.num_samples == evaluator.num_labelled == 0


def test_features_that_are_not_finite_are_refused(digits) -> None:
    class Broken(MeanFeatures):
        def __call__(self, images: Tensor) -> Features:
            pool = super().__call__(images).pool
            pool[1] = torch.nan
            return Features(pool=pool, logits=None)

    images = digits[1].images[:6]
    reference = Reference.from_images(MeanFeatures(), [images], name="6")
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 6 samples, first in sample 1"):
        Evaluator(features=Broken(), reference=reference).update(images)
    with pytest.raises(ValueError, match="NaN or infinity"):
        Reference.from_images(Broken(), [images], name="6")


def test_merging_needs_the_same_reference(extractor, reference, digits) -> None:
    other = Reference.from_images(extractor, [digits[0].images[:50]], name=reference.name)
    with pytest.raises(ValueError, match="cannot merge samples for reference"):
        Evaluator(features=extractor, reference=reference).merge(Evaluator(features=extractor, reference=other))
