from __future__ import annotations

from pathlib import Path

import torch

from pixelflow.metrics.digits_classifier import load_digits_classifier
from pixelflow.metrics.digits_encoder import DigitsEncoder


def encoder() -> DigitsEncoder:
    made = DigitsEncoder()
    made.load(Path("nowhere"), "cpu")
    return made


def test_the_rest_of_the_classifier_gives_its_features() -> None:
    """The maps come from the same images as the classifier sees, in the same form."""
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    tokens = encoder()(images.float() / 127.5 - 1)
    assert tokens.shape == (3, 64, 48)
    classifier = load_digits_classifier()
    maps = tokens.double().transpose(1, 2).unflatten(2, (8, 8))
    pool = classifier.trunk[13:](maps).mean(dim=(2, 3))
    torch.testing.assert_close(pool, classifier(images)[0], atol=1e-4, rtol=0)


def test_it_is_differentiable_beyond_the_range_of_images_and_at_any_size() -> None:
    for side, channels in ((8, 1), (16, 3), (32, 1)):
        x = (torch.randn(2, channels, side, side) * 2).requires_grad_()
        encoder()(x).square().sum().backward()
        assert x.grad is not None and (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert not any(p.requires_grad for p in encoder().model.parameters())  # type: ignore[union-attr]
