from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pixelflow.metrics.digits_classifier import digits_split, draw_at, load_digits
from pixelflow.metrics.features import DigitsFeatures


@dataclass(frozen=True)
class Split:
    images: Tensor  # (N, 1, 16, 16) uint8
    labels: Tensor  # (N,)


@pytest.fixture(scope="session")
def extractor() -> DigitsFeatures:
    return DigitsFeatures()


@pytest.fixture(scope="session")
def digits() -> tuple[Split, Split]:
    """Training and held-out digits at 16 pixels."""
    images, labels = load_digits()
    drawn = draw_at(images, 16).round().to(torch.uint8)
    train, held_out = digits_split(labels)
    return Split(drawn[train], labels[train]), Split(drawn[held_out], labels[held_out])
