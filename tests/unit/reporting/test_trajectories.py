from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pixelflow.flow.cascade import Cascade
from pixelflow.reporting.trajectories import Trajectories


@pytest.fixture
def way() -> Trajectories:
    """Three images, of a network that predicts an image of the value 0.5 from every state."""
    cascade = Cascade(image_size=16, num_stages=2)
    way = Trajectories(cascade, labels=[3, 7, 1])
    for stage, side in enumerate((8, 16)):
        for tau in (0.0, 0.5, 0.5, 1.0):  # a solver that evaluates twice at one time
            x = torch.full((3, 1, side, side), 0.9 * stage + tau - 1)
            way.observe(stage, tau, x)
            if tau < 1:
                clean, taus = torch.full_like(x, 0.5), torch.full((3,), tau)
                way.evaluated(stage, tau, x, cascade.path(stage).velocity_from_x(clean, x, taus))
    return way


def test_states_and_predictions(way: Trajectories) -> None:
    assert [(frame.stage, frame.tau) for frame in way.frames] == [(s, tau) for s in (0, 1) for tau in (0.0, 0.5, 1.0)]
    ends = way.stage_ends()
    assert [end.state.shape for end in ends] == [(3, 1, 16, 16)] * 2
    assert [end.state.unique().tolist() for end in ends] == [[128], [242]]
    predicted = [frame.predicted.unique().tolist() for frame in way.frames]
    assert predicted == [[191]] * 5 + [[242]]  # the end of the last stage is the image itself


def test_a_state_of_some_images_is_left_out(way: Trajectories) -> None:
    way.observe(1, 0.7, torch.zeros(2, 1, 16, 16))
    way.evaluated(1, 0.7, torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16))
    assert len(way.frames) == 6 and way.frames[-1].predicted.unique().tolist() == [242]


def test_figures_of_two_stages(way: Trajectories, tmp_path: Path) -> None:
    stages, film, gif = way.write(tmp_path)
    side = 64  # 16 pixels are drawn at 64
    for path, columns in ((stages, 2), (film, 6)):
        with Image.open(path) as picture:
            margin, header = picture.width - columns * (side + 1) + 1, picture.height - 6 * (side + 1) + 1
            assert margin > 50 and header == 32  # names of the rows, and two lines above the columns
            tiles = picture.convert("L")
            for column, frame in enumerate(way.stage_ends() if columns == 2 else way.frames):
                for row in range(6):  # the state and the prediction of each image
                    value = (frame.predicted if row % 2 else frame.state)[row // 2, 0, 0, 0].item()
                    assert tiles.getpixel((margin + column * (side + 1) + 5, header + row * (side + 1) + 5)) == value
            assert tiles.crop((0, 0, picture.width, header)).getextrema()[0] < 128  # type: ignore[operator]
    with Image.open(gif) as animation:
        assert animation.n_frames == 6  # type: ignore[attr-defined]
