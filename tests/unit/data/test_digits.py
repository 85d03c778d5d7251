from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pixelflow.data import Digits
from pixelflow.metrics.digits_classifier import digits_split, draw_at, load_digits


@pytest.mark.parametrize("image_size", [8, 16, 64])
def test_the_split_is_that_of_the_classifier_of_the_metrics(image_size: int) -> None:
    """Otherwise the held-out digits of one would be training digits of the other; it asks scikit-learn for both."""
    images, labels = load_digits()
    for split, index in zip(("train", "held_out"), digits_split(labels), strict=True):
        got_images, got_labels = Digits(image_size=image_size).images(split)  # type: ignore[arg-type]
        assert torch.equal(got_images, draw_at(images[index], image_size).round().to(torch.uint8))
        assert torch.equal(got_labels, labels[index])


def test_sizes_and_balance_of_the_split() -> None:
    (train, train_labels), (held_out, held_out_labels) = (Digits().images(s) for s in ("train", "held_out"))
    assert (len(train), len(held_out)) == (1500, 297)
    for labels in (train_labels, held_out_labels):
        share = labels.bincount(minlength=10) / len(labels)
        assert share.min() > 0.09
        assert share.max() < 0.11


@pytest.mark.parametrize("image_size", [8, 11, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_images(image_size: int, channels: int) -> None:
    images, labels = Digits(image_size=image_size, channels=channels).images("held_out")
    assert images.shape == (297, channels, image_size, image_size)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert images.min() == 0
    assert images.max() == 255
    assert torch.equal(images[:, :1].expand_as(images), images)


def test_at_eight_pixels_the_scans_are_kept() -> None:
    images, _ = load_digits()
    _, held_out = digits_split(load_digits()[1])
    assert torch.equal(Digits(image_size=8).images("held_out")[0], images[held_out].round().to(torch.uint8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 7}, "image_size=7 must be in 8..64"),
        ({"image_size": 65}, "image_size=65 must be in 8..64"),
        ({"channels": 2}, "channels=2 must be 1 or 3"),
        ({"num_classes": 1000}, "num_classes=1000 must be 10"),
    ],
)
def test_errors(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(**settings)


def test_the_loader_trains_on_the_training_split_alone() -> None:
    digits = Digits(image_size=8, channels=3)
    batch = next(iter(digits.loader(batch_size=1500, seed=0)))
    assert batch.x.shape == (1500, 3, 8, 8)
    images, labels = digits.images("train")
    assert torch.equal(((batch.x + 1) * 127.5).round().sum(dim=0), images.float().sum(dim=0))
    assert torch.equal(batch.condition.class_label.bincount(), labels.bincount())


def test_the_digits_are_read_without_importing_scikit_learn() -> None:
    """Its imports take longer than all else at the start of a command."""
    code = "import sys; from pixelflow.data import Digits; Digits().images('train'); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
