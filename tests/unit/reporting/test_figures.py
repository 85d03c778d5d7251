import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pixelflow.reporting import figures
from pixelflow.reporting.curves import guidance_curve
from pixelflow.reporting.figures import image_grid, loss_curve
from pixelflow.reporting.runs import Run
from tests.unit.reporting.conftest import HOSTILE


def test_loss_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    loss_curve({"a": [(0, 1.0), (1, math.nan), (2, 0.1)], "b": [(0, 2.0)]}, tmp_path / "loss.png")
    (panel,) = drawn[0].axes
    assert panel.get_yscale() == "log"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a", "b"]
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), [1.0, math.nan, 0.1])
    loss_curve({"a": [(0, -1.0), (1, 1.0)]}, tmp_path / "loss.png")
    assert drawn[1].axes[0].get_yscale() == "linear"
    with pytest.raises(ValueError, match="no finite loss to draw in 1 histories"):
        loss_curve({"a": [(0, math.nan)]}, tmp_path / "loss.png")


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_image_grid_pixel_by_pixel(tmp_path: Path) -> None:
    images = torch.tensor([10, 20, 30, 40, 50], dtype=torch.uint8).view(5, 1, 1, 1).repeat(1, 3, 1, 2)
    images[:, 2] += 1  # blue
    gap, empty = list(figures.GREY), [255, 255, 255]

    def tile(value: int) -> list[list[int]]:
        return [[value, value, value + 1]] * 4

    line = [gap] * 14
    expected = np.array(
        [[*tile(10), gap, *tile(20), gap, *tile(30)]] * 2
        + [line[:14]]
        + [[*tile(40), gap, *tile(50), *[empty] * 5]] * 2
    )
    assert np.array_equal(pixels(image_grid(images, tmp_path / "grid.png", columns=3, scale=2)), expected)


def test_image_grid_of_grey_images_and_fewer_than_a_line(tmp_path: Path) -> None:
    images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    shown = pixels(image_grid(images, tmp_path / "grid.png", columns=10))
    assert shown.shape == (2, 5, 3)
    assert np.array_equal(shown[:, :2], images[0, 0][..., None].expand(-1, -1, 3).numpy())
    assert np.array_equal(shown[:, 3:], images[1, 0][..., None].expand(-1, -1, 3).numpy())


def test_image_grid_labels_stand_left_of_their_lines(tmp_path: Path) -> None:
    images = torch.zeros(4, 1, 20, 20, dtype=torch.uint8)
    plain = pixels(image_grid(images, tmp_path / "plain.png", columns=2))
    labelled = pixels(image_grid(images, tmp_path / "grid.png", columns=2, row_labels=["", "seven"]))
    margin = labelled.shape[1] - plain.shape[1]
    assert np.array_equal(labelled[:, margin:], plain)
    ink = (labelled[:, :margin] < 128).any(axis=(1, 2))
    assert not ink[:20].any()
    assert ink[21:].any()
    assert (labelled[:, [0, margin - 1]] == 255).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "message"),
    [
        ((2, 2, 4, 4), torch.uint8, {}, "images must be"),
        ((0, 1, 4, 4), torch.uint8, {}, "images must be"),
        ((1, 4, 4), torch.uint8, {}, "images must be"),
        ((2, 1, 4, 4), torch.float32, {}, "uint8, got .* torch.float32"),
        ((2, 1, 4, 4), torch.uint8, {"columns": 0}, "columns=0 and scale=1"),
        ((2, 1, 4, 4), torch.uint8, {"scale": 0}, "columns=2 and scale=0"),
        ((3, 1, 4, 4), torch.uint8, {"row_labels": ["a"]}, "row_labels has 1 entries, but 3 images make 2 lines"),
    ],
)
def test_image_grid_refuses(tmp_path: Path, shape: tuple, dtype: torch.dtype, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_grid(torch.zeros(shape, dtype=dtype), tmp_path / "grid.png", **{"columns": 2, **options})
    assert not (tmp_path / "grid.png").exists()


def test_loss_curve_shows_names_as_they_are(tmp_path: Path, drawn: list[Figure]) -> None:
    loss_curve({name: [(0, 1.0), (1, 2.0)] for name in HOSTILE}, tmp_path / "loss.png", label="$\\frac{")
    (panel,) = drawn[0].axes
    texts = panel.get_legend().get_texts()
    assert [text.get_text() for text in texts][:4] == ["$\\frac{", "$x$", "_hidden", "a b"]
    assert len(texts) == len(HOSTILE)
    assert not any(text.get_parse_math() for text in [*texts, panel.yaxis.label])
    assert Image.open(tmp_path / "loss.png").size == (640, 380)


def test_guidance_curve_of_hostile_names(make_run: Callable[..., Run], tmp_path: Path) -> None:
    runs = [make_run({"$\\frac{": i, "n": text}, 0, {"fid": 1.0}) for i in (1, 2) for text in HOSTILE]
    assert Image.open(guidance_curve(runs, tmp_path / "curve.png", key="$\\frac{")).size == (640, 440)


def test_image_grid_writes_every_label_in_its_line(tmp_path: Path) -> None:
    images = torch.zeros(len(HOSTILE), 3, 8, 8, dtype=torch.uint8)
    height = pixels(image_grid(images, tmp_path / "grid.png", columns=1, row_labels=HOSTILE)).shape[0]
    assert height == 9 * len(HOSTILE) - 1
