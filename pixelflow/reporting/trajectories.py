"""Figures of the sampling trajectory: the end of each stage (PixelFlow, Figure 3), a film strip, and a GIF."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pixelflow.files import write_aside
from pixelflow.reporting.figures import image_grid

FILM_FRAMES = 12
GIF_SIDE = 128
"""Minimum side of an image in the GIF, in pixels."""
FRAME_MS, LAST_FRAME_MS = 80, 1500


class Trajectories:
    """Observes a sampler and draws the states of its images.

    Args:
        size: Side of the final images in pixels.
    """

    def __init__(self, *, size: int) -> None:
        self.size = size
        self._frames: list[tuple[int, float, Tensor]] = []

    def observe(self, stage: int, tau: float | Tensor, x: Tensor) -> None:
        """Stores a state; pass this method as the sampler's observer.

        Of several states of the same time only the last is kept.

        Args:
            stage: The stage, from 0 for the coarsest.
            tau: Time within the stage.
            x: (B, C, r, r) states of the same images in every call.
        """
        now = float(tau) if not isinstance(tau, Tensor) else tau.min().item()
        if self._frames and self._frames[-1][:2] == (stage, now):
            self._frames.pop()
        self._frames.append((stage, now, self._as_image(x)))

    def _as_image(self, x: Tensor) -> Tensor:
        """Returns (B, C, R, R) uint8 on the CPU, enlarged by repetition of pixels."""
        pixels = (x.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
        times = self.size // x.shape[-1]
        return pixels.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)

    def stage_ends(self) -> list[Tensor]:
        """Returns the images at the end of each stage, each (B, C, R, R) uint8."""
        return [image for _, tau, image in self._frames if tau == 1]

    def write(self, folder: Path) -> list[Path]:
        """Writes the figures to a folder.

        stages.png has a row per image and a column per stage; filmstrip.png has a row per image and the time from left
        to right; trajectory.gif shows all images, one network evaluation per frame.

        Returns:
            The paths of the three files.
        """
        ends = torch.stack(self.stage_ends(), dim=1)
        scale = max(1, 64 // self.size)
        stages = image_grid(ends.flatten(0, 1), folder / "stages.png", columns=ends.shape[1], scale=scale)
        count = min(FILM_FRAMES, len(self._frames))
        chosen = torch.linspace(0, len(self._frames) - 1, count).round().long().tolist()
        strip = torch.stack([self._frames[i][2] for i in chosen], dim=1)
        film = image_grid(strip.flatten(0, 1), folder / "filmstrip.png", columns=count, scale=scale)
        return [stages, film, self._write_gif(folder / "trajectory.gif")]

    def _write_gif(self, path: Path) -> Path:
        scale = max(1, math.ceil(GIF_SIDE / self.size))
        frames = [_side_by_side(image, scale) for _, _, image in self._frames]
        stream = io.BytesIO()
        durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
        frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
        return write_aside(path, stream.getvalue())


def _side_by_side(images: Tensor, scale: int) -> Image.Image:
    """Returns (B, C, R, R) uint8 images in one row, enlarged."""
    row = torch.cat(list(images.expand(-1, 3, -1, -1)), dim=-1).permute(1, 2, 0).numpy()
    picture = Image.fromarray(row)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
