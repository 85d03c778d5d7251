from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelflow.data.scenes import Scene, Thing
from pixelflow.metrics import shapes_classifier
from pixelflow.metrics.packaged_classifier import load_metadata
from pixelflow.metrics.shapes_classifier import (
    ASSET,
    HEADS,
    HELD_OUT_SCENES,
    IMAGE_SIZES,
    TRAIN_SCENES,
    ShapesCNN,
    augment,
    heads_loss,
    held_out_accuracy,
    load_shapes_classifier,
    scenes,
    targets,
    to_input,
    train,
)

LEAST = {"shapes": 0.97, "colours": 0.98, "textures": 0.7, "number": 0.99}
"""Of 1000 scenes; the patterns of small things cannot be resolved at 16 pixels."""


def test_the_shipped_file_is_small_and_says_what_it_is() -> None:
    assert ASSET.stat().st_size <= 300_000
    metadata = load_metadata(ASSET)
    assert (metadata["held_out_size"], metadata["seed"]) == ("1000", "0")
    assert "shapes_classifier" in metadata["recipe"]
    assert str(HELD_OUT_SCENES) in metadata["data"] and str(TRAIN_SCENES) in metadata["data"]


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_the_held_out_accuracies_are_the_stated_ones(size: int) -> None:
    accuracy, metadata = held_out_accuracy(load_shapes_classifier(), size), load_metadata(ASSET)
    assert list(accuracy) == list(HEADS)
    for head, value in accuracy.items():
        assert value >= LEAST[head]
        # A scene on the border may fall either way with another interpolation kernel.
        assert value == pytest.approx(float(metadata[f"held_out_accuracy_{head}_{size}px"]), abs=2.5 / 1000)


def test_sizes_that_it_was_not_trained_on_are_classified_as_well() -> None:
    for size in (24, 128):
        accuracy = held_out_accuracy(load_shapes_classifier(), size, count=200)
        assert all(value >= LEAST[head] - 0.05 for head, value in accuracy.items()), (size, accuracy)


def test_the_ground_truth_of_a_scene() -> None:
    things = (
        Thing("star", "red", "plain", 0.3, 0.3, 0.1),
        Thing("ring", "pink", "dotted", 0.7, 0.7, 0.1),
        Thing("ring", "pink", "dotted", 0.3, 0.7, 0.1),
    )
    assert targets(Scene("count", things, "", (200, 200, 200))) == {
        "shapes": [0, 0, 0, 1, 1, 0],  # circle, square, triangle, star, ring, cross
        "colours": [1, 0, 0, 0, 0, 0, 0, 1],  # red, ..., pink
        "textures": [1, 0, 0, 1],  # plain, striped, checkered, dotted
        "number": [0, 0, 1, 0],
    }


def test_no_held_out_scene_is_a_training_scene() -> None:
    training, held_out = (scenes(seed, range(500), 16)[0].flatten(1) for seed in (TRAIN_SCENES, HELD_OUT_SCENES))
    assert not {bytes(image.numpy()) for image in training} & {bytes(image.numpy()) for image in held_out}


def test_training_draws_training_scenes_only_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def recorded(content_seed: int, indices: range, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn.extend((content_seed, index) for index in indices)
        return scenes(content_seed, indices, size)

    monkeypatch.setattr(shapes_classifier, "scenes", recorded)
    train(steps=3, batch_size=4)
    assert drawn == [(TRAIN_SCENES, index) for index in range(12)]


def test_the_recipe_is_seeded_and_its_file_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "classifier.safetensors"
    monkeypatch.setattr(sys, "argv", ["shapes_classifier", "--output", str(path), "--steps", "4", "--seed", "3"])
    shapes_classifier.main()
    written, again = load_shapes_classifier(path).state_dict(), train(steps=4, seed=3).state_dict()
    assert all(torch.equal(written[name], again[name].to(written[name].dtype)) for name in again)
    other = train(steps=4, seed=4).state_dict()
    assert not torch.equal(other["head.weight"], again["head.weight"])
    accuracy = held_out_accuracy(load_shapes_classifier(path), 16)
    assert load_metadata(path)["held_out_accuracy_number_16px"] == f"{accuracy['number']:.4f}"
    assert load_metadata(path)["seed"] == "3"


@pytest.mark.slow
def test_a_short_run_of_the_recipe_learns_the_colours() -> None:
    """The share of scenes in which all colours are right; a constant answer has at most an eighth."""
    assert held_out_accuracy(train(steps=200), 32)["colours"] >= 0.3


def test_the_loss_is_the_sum_of_the_heads_entropies() -> None:
    """At zero logits each head is as uncertain as a coin, and the number as a die with four sides."""
    _, truth = scenes(HELD_OUT_SCENES, range(8), 16)
    loss = heads_loss(torch.zeros(8, sum(HEADS.values())), truth)
    assert loss.item() == pytest.approx(3 * np.log(2) + np.log(4), rel=1e-6)
    assert heads_loss(60 * (truth * 2 - 1), truth).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [16, 23, 32, 64, 128])
def test_the_input_is_pillows_bilinear_resize(size: int) -> None:
    """Pillow filters with antialiasing too: an independent implementation of the conversion."""
    images = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(size)).to(torch.uint8)
    got = to_input(images)
    assert got.dtype == torch.float64 and got.shape == (2, 3, 32, 32)
    for image, result in zip(images, got, strict=True):
        for channel in range(3):
            picture = Image.fromarray(image[channel].numpy().astype(np.float32))
            expected = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)) / 127.5 - 1
            np.testing.assert_allclose(result[channel], expected, atol=2e-5)


def test_the_logits_are_the_linear_layer_on_the_features() -> None:
    model = load_shapes_classifier()
    pool, logits = model(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert pool.shape == (2, 64) and logits.shape == (2, 22)
    torch.testing.assert_close(logits, pool @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 16, 16), "must be uint8"),
        (torch.zeros(16, 16, dtype=torch.uint8), "must be uint8"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "needs 3 channels"),
        (torch.zeros(1, 3, 16, 17, dtype=torch.uint8), "square images of 16 to 128"),
        (torch.zeros(1, 3, 15, 15, dtype=torch.uint8), "square images of 16 to 128"),
        (torch.zeros(1, 3, 129, 129, dtype=torch.uint8), "square images of 16 to 128"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesCNN()(images)


def test_augmentation_changes_half_of_the_images_and_is_seeded() -> None:
    images, _ = scenes(HELD_OUT_SCENES, range(200), 16)
    first, second = (augment(images, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.uint8
    touched = (first != images).flatten(1).any(dim=1).float().mean()
    assert 0.35 < touched < 0.65
