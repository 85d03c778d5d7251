from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from pixelflow.data import transforms
from pixelflow.data.records import BadSample
from pixelflow.data.transforms import Preprocess, center_crop, resize_short_side, to_channels
from tests.unit.data.files import encoded, picture

SIZES = [(375, 500), (500, 375), (333, 333), (64, 288), (288, 64), (100, 71)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("native", [True, False])
def test_lanczos_is_that_of_pillow(height: int, width: int, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's vector code rounds its weights differently: by one grey level, rarely two where it enlarges."""
    monkeypatch.setattr(transforms, "HAS_LANCZOS", native and transforms.HAS_LANCZOS)
    image = picture(0, height, width)
    expected = np.asarray(TF.resize(image, 72, interpolation=TF.InterpolationMode.LANCZOS)).astype(int)
    got = resize_short_side(np.array(image), 72)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= (2 if min(height, width) < 72 else 1)
    assert np.abs(got - expected).mean() < 0.05


def test_the_training_crop_is_that_of_torchvision_in_the_same_place() -> None:
    image = picture(1, 200, 300)
    resized = np.asarray(TF.resize(image, 72, interpolation=TF.InterpolationMode.LANCZOS)).astype(int)
    for u, v in ((0.0, 0.0), (0.999, 0.999), (0.3, 0.7)):
        top, left = int(u * (72 - 64 + 1)), int(v * (resized.shape[1] - 64 + 1))
        got = Preprocess().training_crop(encoded(image, "PNG"), 64, np.array([u, v]))
        assert np.abs(got - resized[top : top + 64, left : left + 64]).max() <= 1


def test_a_shard_of_the_right_size_is_only_cropped() -> None:
    image = picture(2, 72, 72)
    got = Preprocess().training_crop(encoded(image, "PNG"), 64, np.array([0.5, 0.0]))
    assert np.array_equal(got, np.asarray(image)[4:68, :64])


def adm_reference(image: Image.Image, size: int) -> np.ndarray:
    """The description in Dhariwal and Nichol 2021's code, step by step in floats and NumPy slices."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    pixels = np.array(image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize(("height", "width"), [*SIZES, (64, 64), (63, 300), (512, 640)])
def test_center_crop_is_that_of_adm(height: int, width: int) -> None:
    image = picture(3, height, width)
    assert np.array_equal(center_crop(np.asarray(image), 64), adm_reference(image, 64))


def test_reduced_decoding_keeps_the_picture() -> None:
    """Against decoding in full: small differences, of the two ways to average."""
    image = picture(4, 600, 800)
    data = encoded(image, quality=95)
    u = np.array([0.5, 0.5])
    got = Preprocess().training_crop(data, 64, u).astype(int)
    full = resize_short_side(np.array(Image.open(io.BytesIO(data))), 72)
    top, left = int(0.5 * 9), int(0.5 * (full.shape[1] - 63))
    assert np.abs(got - full[top : top + 64, left : left + 64]).mean() < 1.5


def test_grey() -> None:
    pixels = np.asarray(picture(5))
    assert to_channels(pixels, 3) is pixels
    assert np.array_equal(to_channels(pixels, 1)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


@pytest.mark.parametrize(("height", "width", "reason"), [(30, 90, "too small"), (40, 90, "too long"), (60, 90, None)])
def test_filters(height: int, width: int, reason: str | None) -> None:
    preprocess = Preprocess(min_side=32, max_aspect=2)
    data = encoded(picture(6, height, width))
    if reason is None:
        assert preprocess.training_crop(data, 32, np.zeros(2)).shape == (32, 32, 3)
        return
    with pytest.raises(BadSample, match=f"{reason}: {width} x {height}") as caught:
        preprocess.training_crop(data, 32, np.zeros(2))
    assert caught.value.filtered


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 0}, "preprocess.max_pixels=0 must be at least 1"),
        ({"min_side": -1}, "preprocess.min_side=-1"),
        ({"max_aspect": 0.5}, "preprocess.max_aspect=0.5"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess(**settings)


def test_the_result_is_writable_into_a_batch() -> None:
    slot = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    slot.numpy()[0] = Preprocess().training_crop(encoded(picture(7)), 32, np.zeros(2))
    assert slot.float().std() > 0
