from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from pixelflow.reporting.trajectories import Trajectories


def test_figures_of_two_stages(tmp_path: Path) -> None:
    way = Trajectories(size=16)
    for stage, side in enumerate((8, 16)):
        for tau in (0.0, 0.5, 0.5, 1.0):  # a solver that evaluates twice at one time
            way.observe(stage, tau, torch.full((3, 1, side, side), 0.9 * stage + tau - 1))
    ends = way.stage_ends()
    assert [end.shape for end in ends] == [(3, 1, 16, 16)] * 2
    assert [end.unique().tolist() for end in ends] == [[128], [242]]
    stages, film, gif = way.write(tmp_path)
    scale = 4  # 16 pixels are drawn at 64
    assert Image.open(stages).size == (2 * 16 * scale + 1, 3 * 16 * scale + 2)
    assert Image.open(film).size == (6 * 16 * scale + 5, 3 * 16 * scale + 2)
    with Image.open(gif) as animation:
        assert animation.n_frames == 6  # type: ignore[attr-defined]
        assert animation.size == (3 * 128, 128)
        shown = []
        for frame in range(6):
            animation.seek(frame)
            shown.append(animation.convert("L").getpixel((5, 5)))
        assert shown == [0, 64, 128, 115, 178, 242]
