"""The features of the shapes classifier, and what the distances on them measure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelflow.data import Shapes
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import ShapesFeatures
from pixelflow.metrics.reference import Reference
from pixelflow.metrics.references import load_reference

COUNT = 1000


@pytest.fixture(scope="module")
def extractor() -> ShapesFeatures:
    return ShapesFeatures()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return Shapes(image_size=32, content_seed=11, reference_images=COUNT).images("train")[0]


@pytest.fixture(scope="module")
def reference(extractor: ShapesFeatures) -> Reference:
    other = Shapes(image_size=32, content_seed=12, reference_images=COUNT).images("train")[0]
    return Reference.from_images(extractor, other.split(250), name="shapes", total=COUNT)


def distance(images: Tensor, extractor: ShapesFeatures, reference: Reference) -> float:
    evaluator = Evaluator(features=extractor, reference=reference, metrics=["frechet"])
    for batch in images.split(250):
        evaluator.update(batch)
    return evaluator.compute()["fd_shapes"]


def test_features_do_not_depend_on_the_batch_or_on_autocast(extractor: ShapesFeatures, images: Tensor) -> None:
    images = images[:65]
    whole = extractor(images)
    assert whole.pool.shape == (65, extractor.num_features) and whole.pool.dtype == torch.float32
    assert whole.logits is None and not whole.pool.requires_grad
    for batch_size in (1, 7, 64):
        pool = torch.cat([extractor(batch).pool for batch in images.split(batch_size)])
        torch.testing.assert_close(pool, whole.pool, rtol=1e-6, atol=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(extractor(images).pool, whole.pool, rtol=1e-6, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_are_the_same_on_a_gpu(extractor: ShapesFeatures, images: Tensor) -> None:
    got = ShapesFeatures(device="cuda")(images).pool.cpu()
    torch.testing.assert_close(got, extractor(images).pool, rtol=1e-6, atol=1e-7)


def test_what_it_refuses() -> None:
    unfit = ShapesFeatures().unfit
    assert unfit(data="digits", image_size=32, channels=3) == "the shapes classifier measures shapes, not digits"
    form = "the shapes classifier measures images of 16 to 128 pixels with 3 channels"
    assert unfit(data="shapes", image_size=32, channels=1) == form
    assert unfit(data="shapes", image_size=15, channels=3) == unfit(data="shapes", image_size=129, channels=3) == form
    assert unfit(data="shapes", image_size=16, channels=3) is unfit(data="shapes", image_size=128, channels=3) is None


def test_the_metrics_have_its_name(extractor: ShapesFeatures, images: Tensor, reference: Reference) -> None:
    evaluator = Evaluator(features=extractor, reference=reference, kid_subset_size=100)
    evaluator.update(images, labels=torch.zeros(COUNT, dtype=torch.long))
    values = evaluator.compute()
    assert {"fd_shapes", "kid_shapes", "precision", "recall"} <= set(values) and "accuracy" not in values
    assert values["precision"] > 0.9 and values["recall"] > 0.9


def test_its_references_are_not_stored(extractor: ShapesFeatures, images: Tensor, tmp_path: Path) -> None:
    """The fingerprint does not name the weights, and computing the features takes seconds."""
    got = load_reference("train", extractor, assets=tmp_path, split_images=lambda split: ("shapes", images[:20]))
    assert got.pool is not None and got.name == "shapes train, 32 px, 20 images"
    assert list(tmp_path.iterdir()) == []


def blurred(images: Tensor, amount: float) -> Tensor:
    given = images.float()
    smooth = F.avg_pool2d(given, 5, stride=1, padding=2, count_include_pad=False)
    return torch.lerp(given, smooth, amount).round().to(torch.uint8)


def noisy(images: Tensor, amount: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * amount
    return (images.float() + noise).clamp(0, 255).round().to(torch.uint8)


def recoloured(images: Tensor, amount: float) -> Tensor:
    """Exchanges red and blue in a share of the images."""
    count = int(amount * len(images))
    return torch.cat([images[:count].flip(1), images[count:]])


@pytest.mark.parametrize(
    ("change", "amounts"),
    [
        (blurred, (0.25, 0.5, 0.75, 1.0)),
        (noisy, (8, 16, 32, 64)),
        (recoloured, (0.1, 0.25, 0.5, 1.0)),
    ],
)
def test_the_distance_grows_with_the_damage(
    change, amounts: tuple[float, ...], extractor: ShapesFeatures, images: Tensor, reference: Reference
) -> None:
    values = [distance(change(images, amount), extractor, reference) for amount in (0, *amounts)]
    assert values == sorted(values) and values[-1] > 10 * values[0], values


def test_the_floor_of_the_distance_falls_with_the_number_of_images(extractor: ShapesFeatures, images: Tensor) -> None:
    """Sets of the same distribution differ by an error of the order of 1 / number of images."""
    other = Shapes(image_size=32, content_seed=12, reference_images=COUNT).images("train")[0]

    def floor(count: int) -> float:
        few = Reference.from_images(extractor, other[:count].split(250), name="shapes", total=count)
        return distance(images[:count], extractor, few)

    assert floor(1000) < 0.5 * floor(250)
