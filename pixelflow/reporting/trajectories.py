"""Figures of the sampling trajectory: the end of each stage (PixelFlow, Figure 3), a film strip, and a GIF.

Below the states of an image stands the clean image that the network predicts from each of them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pixelflow.files import write_aside
from pixelflow.flow.cascade import Cascade
from pixelflow.reporting.figures import grid_picture, image_grid

FILM_FRAMES = 12
GIF_SIDE = 128
"""Minimum side of an image in the GIF, in pixels."""
STRIP_SIDE = 64
"""Minimum side of an image in the other figures."""
FRAME_MS, LAST_FRAME_MS = 80, 1500


@dataclass
class Frame:
    """The images at one time.

    Args:
        stage: The stage, from 0 for the coarsest.
        tau: Time within the stage.
        state: (B, C, R, R) uint8.
        predicted: (B, C, R, R) uint8, the clean images that the velocity at this state leads to.
    """

    stage: int
    tau: float
    state: Tensor
    predicted: Tensor

    @property
    def time(self) -> str:
        """Stage and time as a label of two lines."""
        return f"stage {self.stage}\ntau {self.tau:.3g}"

    @property
    def rows(self) -> Tensor:
        """State and prediction of each image, (B, 2, C, R, R)."""
        return torch.stack([self.state, self.predicted], dim=1)


class Trajectories:
    """Observes a sampler and draws the states of its images.

    Args:
        cascade: The stages of the images.
        labels: The classes of the B images.
    """

    def __init__(self, cascade: Cascade, labels: Sequence[int]) -> None:
        self.cascade, self.labels = cascade, list(labels)
        self.frames: list[Frame] = []

    def observe(self, stage: int, tau: float | Tensor, x: Tensor) -> None:
        """Stores a state; pass this method as the sampler's observer.

        Of several states of the same time only the last is kept. A state of some of the images alone, as solvers with
        steps for each image have them, is left out.

        Args:
            stage: The stage, from 0 for the coarsest.
            tau: Time within the stage.
            x: (B, C, r, r) states of the same images in every call.
        """
        if len(x) != len(self.labels):
            return
        now = tau.min().item() if isinstance(tau, Tensor) else float(tau)
        before = self.frames[-1] if self.frames else None
        if before and (before.stage, before.tau) == (stage, now):
            self.frames.pop()
        state = self._as_image(x)
        ended = stage == self.cascade.num_stages - 1 and now == 1
        kept = before is not None and before.stage == stage and not ended
        self.frames.append(Frame(stage, now, state, before.predicted if before and kept else state))

    def evaluated(self, stage: int, tau: float | Tensor, x: Tensor, velocity: Tensor) -> None:
        """Stores the clean images that a velocity leads to; pass this method as the sampler's `evaluated`."""
        if len(x) != len(self.labels):
            return
        taus = tau if isinstance(tau, Tensor) else torch.full((len(x),), tau, device=x.device)
        self.frames[-1].predicted = self._as_image(self.cascade.path(stage).x_from_velocity(velocity, x, taus))

    def _as_image(self, x: Tensor) -> Tensor:
        """Returns (B, C, R, R) uint8 on the CPU, enlarged by repetition of pixels."""
        pixels = (x.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
        times = self.cascade.image_size // x.shape[-1]
        return pixels.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)

    def stage_ends(self) -> list[Frame]:
        """Returns the frames at the end of each stage."""
        return [frame for frame in self.frames if frame.tau == 1]

    def write(self, folder: Path) -> list[Path]:
        """Writes the figures to a folder.

        stages.png has a column per stage, filmstrip.png the time from left to right. Both have two rows per image, its
        states and the clean images predicted from them. trajectory.gif shows all images, one network evaluation per
        frame.

        Returns:
            The paths of the three files.
        """
        count = min(FILM_FRAMES, len(self.frames))
        chosen = torch.linspace(0, len(self.frames) - 1, count).round().long().tolist()
        return [
            self._write_strip(self.stage_ends(), folder / "stages.png"),
            self._write_strip([self.frames[number] for number in chosen], folder / "filmstrip.png"),
            self._write_gif(folder / "trajectory.gif"),
        ]

    def _write_strip(self, frames: Sequence[Frame], path: Path) -> Path:
        images = torch.stack([frame.rows for frame in frames], dim=2).flatten(0, 2)
        names = [name for label in self.labels for name in (f"class {label}", "predicted clean image")]
        times = [frame.time for frame in frames]
        scale = math.ceil(STRIP_SIDE / self.cascade.image_size)
        return image_grid(images, path, columns=len(frames), row_labels=names, column_labels=times, scale=scale)

    def _write_gif(self, path: Path) -> Path:
        classes = [f"class {label}" for label in self.labels]
        scale = math.ceil(GIF_SIDE / self.cascade.image_size)
        pictures = [
            grid_picture(
                frame.rows.transpose(0, 1).flatten(0, 1),
                columns=len(classes),
                row_labels=["state", "predicted"],
                column_labels=[f"{frame.time}\n{classes[0]}", *(f"\n\n{name}" for name in classes[1:])],
                scale=scale,
            )
            for frame in self.frames
        ]
        stream = io.BytesIO()
        durations = [FRAME_MS] * (len(pictures) - 1) + [LAST_FRAME_MS]
        pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
        return write_aside(path, stream.getvalue())
