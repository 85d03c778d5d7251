from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelflow.metrics import digits_classifier
from pixelflow.metrics.digits_classifier import (
    ASSET,
    IMAGE_SIZES,
    DigitsCNN,
    augment,
    digits_split,
    draw_at,
    held_out_accuracy,
    load_digits,
    load_digits_classifier,
    to_input,
    train,
)
from pixelflow.metrics.packaged_classifier import load_metadata


def test_the_shipped_file_is_small_and_says_what_it_is() -> None:
    assert ASSET.stat().st_size <= 500_000
    metadata = load_metadata(ASSET)
    assert (metadata["train_size"], metadata["held_out_size"], metadata["seed"]) == ("1500", "297", "0")
    assert "digits_classifier" in metadata["recipe"]


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_the_held_out_accuracy_is_the_stated_one(size: int) -> None:
    accuracy = held_out_accuracy(load_digits_classifier(), size)
    assert accuracy >= 0.97
    # One digit on the border may fall either way with another interpolation kernel.
    assert accuracy == pytest.approx(float(load_metadata(ASSET)[f"held_out_accuracy_{size}px"]), abs=1.5 / 297)
    assert accuracy >= float(load_metadata(ASSET)["held_out_accuracy"]) - 1.5 / 297


def test_the_split_is_stratified_and_complete() -> None:
    _, labels = load_digits()
    training, held_out = digits_split(labels)
    assert (len(training), len(held_out)) == (1500, 297)
    assert sorted([*training, *held_out]) == list(range(1797))
    expected = labels.bincount() * 297 / 1797
    assert ((labels[held_out].bincount() - expected).abs() < 1).all()


def test_training_sees_no_held_out_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out digits get a class that there is not, and cross-entropy refuses such a label."""
    images, labels = load_digits()
    split = digits_split(labels)
    monkeypatch.setattr(digits_classifier, "digits_split", lambda _: split)
    labels[split[1]] = 99
    monkeypatch.setattr(digits_classifier, "load_digits", lambda: (images, labels))
    train(epochs=1)
    labels[split[0][0]] = 99
    with pytest.raises(IndexError):
        train(epochs=1)


def test_the_recipe_is_seeded_and_its_file_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "classifier.safetensors"
    monkeypatch.setattr(sys, "argv", ["digits_classifier", "--output", str(path), "--epochs", "1", "--seed", "3"])
    digits_classifier.main()
    written, again = load_digits_classifier(path).state_dict(), train(epochs=1, seed=3).state_dict()
    assert all(torch.equal(written[name], again[name].to(written[name].dtype)) for name in again)
    assert load_metadata(path)["seed"] == "3"
    accuracy = held_out_accuracy(load_digits_classifier(path), 16)
    assert load_metadata(path)["held_out_accuracy_16px"] == f"{accuracy:.4f}"


@pytest.mark.slow
def test_a_short_run_of_the_recipe_learns_the_digits() -> None:
    assert held_out_accuracy(train(epochs=12), 16) >= 0.96


@pytest.mark.parametrize("size", [8, 16, 23, 32, 64])
def test_the_input_is_pillows_bilinear_resize(size: int) -> None:
    """Pillow filters with antialiasing too: an independent implementation of the conversion."""
    images = torch.randint(0, 256, (2, 1, size, size), generator=torch.Generator().manual_seed(size)).to(torch.uint8)
    got = to_input(images)
    assert got.dtype == torch.float64 and got.shape == (2, 1, 16, 16)
    for image, result in zip(images, got, strict=True):
        picture = Image.fromarray(image[0].numpy().astype(np.float32))
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(result[0], expected, atol=1e-5)


def test_colour_is_averaged() -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    torch.testing.assert_close(to_input(images)[:, 0], images.double().mean(dim=1) / 255)


def test_the_logits_are_the_linear_layer_on_the_features() -> None:
    model = load_digits_classifier()
    pool, logits = model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert pool.shape == (2, 64) and logits.shape == (2, 10)
    torch.testing.assert_close(logits, pool @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 16, 16), "must be uint8"),
        (torch.zeros(16, 16, dtype=torch.uint8), "must be uint8"),
        (torch.zeros(1, 2, 16, 16, dtype=torch.uint8), "1 or 3 channels"),
        (torch.zeros(1, 1, 16, 17, dtype=torch.uint8), "square images of 8 to 64"),
        (torch.zeros(1, 1, 7, 7, dtype=torch.uint8), "square images of 8 to 64"),
        (torch.zeros(1, 1, 65, 65, dtype=torch.uint8), "square images of 8 to 64"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsCNN()(images)


def test_augmentation_changes_half_of_the_images_and_is_seeded() -> None:
    images = draw_at(load_digits()[0][:200], 16)
    first, second = (augment(images, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.uint8
    touched = (first != images.round().to(torch.uint8)).flatten(1).any(dim=1).float().mean()
    assert 0.35 < touched < 0.65
