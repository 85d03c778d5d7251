"""Draws docs/images/cascade.png: how an image grows through the stages of a cascade.

    python docs/figures/cascade.py

The pictures are the states of a real path: a handwritten digit, noised by `Cascade.flow_sample` at the start and at the
end of each of three stages, and the enlarged state before and after `Cascade.renoise`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pixelflow.data import Digits
from pixelflow.flow import Cascade, KeyedRandom

OUTPUT = Path(__file__).resolve().parents[1] / "images" / "cascade.png"
SIZE, STAGES, DIGIT = 32, 3, 3
INK, NETWORK, RENOISE = "#333333", "#1f5fa8", "#b3541e"
SIDE = 1.0
"""Width of the largest picture, in the units of the drawing."""


def states(cascade: Cascade) -> list[tuple[Tensor, Tensor]]:
    """Start and end of every stage, each (C, h, w), on the path of one digit."""
    x, _ = Digits(image_size=SIZE).images("train")
    clean = x[DIGIT : DIGIT + 1].float() / 127.5 - 1
    random, index = KeyedRandom(0), torch.zeros(1, dtype=torch.int64)
    ends: list[tuple[Tensor, Tensor]] = []
    for stage in range(cascade.num_stages):
        side = cascade.resolution(stage)
        noise = random.normal(f"figure {stage}", [0], (1, side, side))
        pair = [
            cascade.flow_sample(clean, stage=stage, tau=torch.full((1,), tau), noise=noise, index=index).x_t[0]
            for tau in (0.0, 1.0)
        ]
        ends.append((pair[0], pair[1]))
    return ends


def draw(cascade: Cascade) -> None:
    """Write the figure."""
    figure, axes = plt.subplots(figsize=(11, 3.1), dpi=160)
    axes.set_axis_off()
    x = 0.0
    for stage, (start, end) in enumerate(states(cascade)):
        side = SIDE * (0.42 + 0.29 * stage)
        path, pixels = cascade.path(stage), cascade.resolution(stage)
        _picture(axes, start, x, side)
        _arrow(axes, x + side + 0.04, x + side + 0.56, NETWORK, "transformer\n(solver steps)")
        _picture(axes, end, x + side + 0.6, side)
        middle = x + side + 0.3
        axes.text(middle, -0.68, f"stage {stage}: {pixels} x {pixels} pixels", ha="center", color=INK, fontsize=9)
        axes.text(middle, -0.84, f"t from {path.start:.2f} to {path.end:.2f}", ha="center", color=INK, fontsize=8)
        x += 2 * side + 0.6
        if stage + 1 < cascade.num_stages:
            _arrow(axes, x + 0.05, x + 0.57, RENOISE, "enlarge,\nrenoise")
            x += 0.62
    axes.text(0.21, 0.62, "noise", ha="center", color=INK, fontsize=9)
    axes.text(x - 0.5, 0.62, "image", ha="center", color=INK, fontsize=9)
    axes.set_xlim(-0.05, x + 0.05)
    axes.set_ylim(-0.95, 0.75)
    axes.set_aspect("equal")
    figure.savefig(OUTPUT, bbox_inches="tight")
    print(f"written: {OUTPUT.name}")


def _picture(axes: Axes, image: Tensor, left: float, side: float) -> None:
    extent = (left, left + side, -side / 2, side / 2)
    axes.imshow(image[0], cmap="gray", vmin=-1.3, vmax=1.3, extent=extent, interpolation="nearest")


def _arrow(axes: Axes, left: float, right: float, color: str, text: str) -> None:
    axes.annotate("", (right, 0), (left, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.6})
    axes.text((left + right) / 2, 0.06, text, ha="center", va="bottom", color=color, fontsize=6.5)


if __name__ == "__main__":
    draw(Cascade(image_size=SIZE, num_stages=STAGES))
