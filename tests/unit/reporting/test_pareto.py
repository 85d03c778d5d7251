from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelflow.reporting.pareto import Point, pareto_front, quality_chart, quality_table

POINTS = [
    Point("euler 30", "euler", 60, 0.10, {"fd": 3.0}),
    Point("adams 15", "adams", 30, 0.02, {"fd": 2.0}),
    Point("euler 10", "euler", 20, 0.30, {"fd": 9.0}),
    Point("adams 5", "adams", 20, 0.25, {"fd": 8.0}),
    Point("dopri5", "dopri5", 300, 0.001, {"fd": 1.9}),
    Point("twin", "adams", 30, 0.02, {"fd": 2.0}),
]


def test_pareto_front() -> None:
    assert [p.label for p in pareto_front(POINTS)] == ["adams 5", "adams 15", "dopri5"]
    for point in POINTS:  # by definition: no other is better in one and as good in the other
        beaten = any((p.cost <= point.cost and p.quality < point.quality)
                     or (p.cost < point.cost and p.quality <= point.quality) for p in POINTS)  # fmt: skip
        assert beaten != (point in pareto_front(POINTS) or point.label == "twin")


def test_table() -> None:
    lines = quality_table(POINTS, cost="passes", quality="error").splitlines()
    assert lines[0] == "| setting | passes | error | fd | Pareto |"
    assert lines[2] == "| euler 10 | 20 | 0.3 | 9 |  |"
    assert lines[-1] == "| dopri5 | 300 | 0.001 | 1.9 | C |"


@pytest.mark.parametrize("lines", [False, True])
def test_chart(lines: bool, tmp_path: Path) -> None:
    path = quality_chart(POINTS, tmp_path / "chart.png", cost="passes", quality="error", lines=lines)
    pixels = np.array(Image.open(path).convert("RGB"))
    colors = {tuple(c) for c in pixels.reshape(-1, 3)}
    assert {(0x1F, 0x4E, 0x79), (0xC0, 0x50, 0x4D), (0x6A, 0x99, 0x4E)} <= colors  # a colour for each series


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no setting to draw"):
        quality_chart([], tmp_path / "chart.png", cost="a", quality="b")


def test_labels_are_text_in_the_markdown() -> None:
    points = [Point("<b>|`x`|[a](javascript:b)", "s", 1.0, 2.0)]
    line = quality_table(points, cost="ms", quality="FID").splitlines()[2]
    assert line == r"| &lt;b&gt;\|\`x\`\|[a\](javascript:b) | 1 | 2 | A |"
