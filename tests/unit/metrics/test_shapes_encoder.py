from __future__ import annotations

from pathlib import Path

import torch

from pixelflow.metrics.shapes_classifier import HELD_OUT_SCENES, load_shapes_classifier, scenes
from pixelflow.metrics.shapes_encoder import LAYERS, ShapesEncoder


def encoder() -> ShapesEncoder:
    made = ShapesEncoder()
    made.load(Path("nowhere"), "cpu")
    return made


def test_the_rest_of_the_classifier_gives_its_features() -> None:
    """The maps come from the same images as the classifier sees, in the same form."""
    images, _ = scenes(HELD_OUT_SCENES, range(3), 64)
    tokens = encoder()(images.float() / 127.5 - 1)
    assert tokens.shape == (3, 64, ShapesEncoder.num_features) and tokens.dtype == torch.float32
    classifier = load_shapes_classifier()
    maps = tokens.double().transpose(1, 2).unflatten(2, (8, 8))
    pool = classifier.trunk[LAYERS:](maps).mean(dim=(2, 3))
    torch.testing.assert_close(pool, classifier(images)[0], atol=1e-4, rtol=0)


def test_it_is_differentiable_beyond_the_range_of_images_and_at_any_size() -> None:
    for side, channels in ((16, 3), (32, 3), (64, 1)):
        x = (torch.randn(2, channels, side, side) * 2).requires_grad_()
        encoder()(x).square().sum().backward()
        assert x.grad is not None and (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert not any(p.requires_grad for p in encoder().model.parameters())  # type: ignore[union-attr]


def test_it_needs_no_file() -> None:
    assert ShapesEncoder().missing(Path("nowhere")) == []
