"""The cascade: the window of the flow that each resolution covers, and the renoising between two resolutions.

Sources: PixelFlow section 3.2, its release for the numbers, and Pyramid Flow (arXiv 2410.05954, section 3.2) for
renoising.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from pixelflow.flow.path import Clamp, StagePath, add_up, down
from pixelflow.limits import at_least, at_most
from pixelflow.types import FlowSample

COVARIANCE_RIDGE = 1e-6
"""Added to the covariance of the correlated noise, which is singular at gamma = -1/3."""

LARGEST_IMAGE = 2**14
"""Largest side of images in pixels, so that a wrong number is refused before it is allocated."""


@dataclass(frozen=True)
class Stage:
    """A resolution of the cascade.

    Args:
        path: The path of the stage with its window of the flow (shares of the clean image).
        resolution: Side of the images in pixels.
        original_start: Start of the window before the jump correction.
        first_timestep: The timestep passed to the backbone at tau = 0.
        last_timestep: The timestep passed to the backbone at tau = 0.999.
    """

    path: StagePath
    resolution: int
    original_start: float
    first_timestep: float
    last_timestep: float


class Cascade:
    """`num_stages` resolutions, each twice the one before, up to `image_size`.

    Args:
        image_size: Resolution of the last stage in pixels.
        num_stages: Number of stages, at least 1.
        kickoff: Resolution of stage 0, if stated; it must agree with the two others.
        gamma: Correlation of the renoising noise inside a 2x2 block, in [-1/3, 0).
        num_train_timesteps: Number of values of tau per stage in training; as many integers are divided among the
            stages as timesteps.
        t_eps: Smallest denominator of the conversion from x to velocity (see `StagePath`).
        clamp: What is divided by that denominator (see `StagePath`).
        max_timestep: The timesteps passed to the backbone are in [0, max_timestep); the backbone's attribute of the
            same name.

    Raises:
        ValueError: image_size does not allow num_stages or kickoff, or a number is out of range.

    Examples:
        >>> cascade = Cascade(image_size=32, num_stages=3)
        >>> [cascade.resolution(stage) for stage in range(3)]
        [8, 16, 32]
    """

    def __init__(
        self,
        *,
        image_size: int,
        num_stages: int,
        kickoff: int | None = None,
        gamma: float = -1 / 3,
        num_train_timesteps: int = 1000,
        t_eps: float = 0.05,
        clamp: Clamp = "quotient",
        max_timestep: float = 1000.0,
    ) -> None:
        at_least(1, image_size=image_size, num_stages=num_stages, kickoff=kickoff, max_timestep=max_timestep)
        at_most(LARGEST_IMAGE, image_size=image_size)
        factor = 2 ** min(num_stages - 1, 64)  # no image has a larger side
        if image_size % factor:
            most = (image_size & -image_size).bit_length()
            raise ValueError(
                f"num_stages={num_stages} needs image_size divisible by {factor} (got {image_size}); "
                f"at most num_stages={most}"
            )
        if kickoff is not None and kickoff * factor != image_size:
            accepted = [image_size >> k for k in range(12) if image_size % (1 << k) == 0]
            raise ValueError(
                f"kickoff={kickoff} must be image_size={image_size} divided by a power of two: one of {accepted}"
            )
        at_least(num_stages, num_train_timesteps=num_train_timesteps)
        if not -1 / 3 - 1e-9 <= gamma < 0:
            raise ValueError(f"gamma={gamma} must be in [-1/3, 0)")
        if not 0 < t_eps < 1:
            raise ValueError(f"t_eps={t_eps} must be in (0, 1)")
        if clamp not in get_args(Clamp):
            raise ValueError(f"clamp={clamp!r} must be one of {', '.join(get_args(Clamp))}")
        self.image_size = image_size
        self.num_stages = num_stages
        self.gamma = gamma
        self.num_train_timesteps, self.max_timestep = num_train_timesteps, max_timestep
        self.stages = self._stages(t_eps, clamp)

    def _stages(self, t_eps: float, clamp: Clamp) -> list[Stage]:
        n, steps = self.num_stages, self.num_train_timesteps
        # The release keeps these as float32, and its checkpoints were trained with the rounded values.
        original = [float(np.float32(math.floor(steps * s / n) / steps)) for s in range(n)]
        starts = [start * self._jump_correction(start) if s else start for s, start in enumerate(original)]
        ends = [*original[1:], 1.0]
        lengths = np.array(ends) - np.array(starts)
        cuts = [0, *(int(steps * c) for c in np.cumsum(lengths / lengths.sum()))]
        stages = []
        for s in range(n):
            # The last stage's values reach steps - 1; the others stop one value short of the next stage's first.
            last = steps - 1 if s == n - 1 else cuts[s] + (cuts[s + 1] - cuts[s]) * (steps - 1) / steps
            path = StagePath(stage=s, start=starts[s], end=ends[s], t_eps=t_eps, clamp=clamp)
            stages.append(Stage(path, self.image_size >> (n - 1 - s), original[s], float(cuts[s]), float(last)))
        return stages

    def _jump_correction(self, original_start: float) -> float:
        """The factor of the enlarged image in renoising."""
        return 1 / (math.sqrt(1 - 1 / self.gamma) * (1 - original_start) + original_start)

    @property
    def kickoff(self) -> int:
        """Resolution of stage 0 in pixels."""
        return self.stages[0].resolution

    def path(self, stage: int) -> StagePath:
        """Returns the path of a stage."""
        return self.stages[stage].path

    def resolution(self, stage: int) -> int:
        """Returns the image side of a stage in pixels."""
        return self.stages[stage].resolution

    def windows(self, stages: Tensor) -> tuple[Tensor, Tensor]:
        """Returns s and e, the shares of the clean image at tau = 0 and 1, for stages (B,): (B,) each, float64."""
        starts, ends = (
            torch.tensor(shares, dtype=torch.float64)
            for shares in zip(*((stage.path.start, stage.path.end) for stage in self.stages), strict=True)
        )
        return starts[stages], ends[stages]

    def timestep(self, stage: int, tau: Tensor, last_tau: float | None = None) -> Tensor:
        """Returns the timestep passed to the backbone at tau, in the stage's part of [0, max_timestep), float64.

        Args:
            stage: Number of the stage.
            tau: Times within the stage, of any shape.
            last_tau: The tau that belongs to the last timestep of the stage. Training draws tau = i / 1000 with
                i < 1000, so by default it is 0.999, and with one stage the timestep is tau * max_timestep. The
                release's adaptive solver uses 1.
        """
        s = self.stages[stage]
        if last_tau is None:
            last_tau = (self.num_train_timesteps - 1) / self.num_train_timesteps
        timestep = s.first_timestep + tau.double() / last_tau * (s.last_timestep - s.first_timestep)
        return timestep * (self.max_timestep / self.num_train_timesteps)

    def image_at(self, x: Tensor, stage: int) -> Tensor:
        """Returns the clean image of `stage` for images x (B, C, R, R) at full resolution."""
        for _ in range(self.num_stages - 1 - stage):
            x = down(x)
        return x

    def flow_sample(self, x: Tensor, *, stage: int, tau: Tensor, noise: Tensor, index: Tensor) -> FlowSample:
        """Returns images noised on the path of `stage`.

        Args:
            x: (b, C, R, R), clean images at full resolution.
            stage: Number of the stage.
            tau: (b,), times within the stage.
            noise: (b, C, h, w) at the resolution of the stage.
            index: (b,), positions of the images in the whole batch.
        """
        x = self.image_at(x, stage)
        path = self.path(stage)
        x_t = path.interpolate(x, noise, tau)
        return FlowSample(path, x, noise, tau, self.timestep(stage, tau).to(x), x_t, index)

    def renoise_coefficients(self, stage: int) -> tuple[float, float]:
        """Returns alpha and beta, the factors of the enlarged image and of the noise at the start of `stage` > 0."""
        s0 = self.stages[stage].original_start
        alpha = self._jump_correction(s0)
        return alpha, alpha * (1 - s0) / math.sqrt(-self.gamma)

    def renoise(self, x: Tensor, stage: int, noise: Tensor) -> Tensor:
        """Turns the end of stage - 1 into the start of `stage`: alpha * Up(x) + beta * noise.

        Args:
            x: (B, C, H, W), the end of stage - 1.
            stage: Number of the stage, above 0.
            noise: (B, C, 2H, 2W), from `correlate`.

        Returns:
            (B, C, 2H, 2W).
        """
        alpha, beta = self.renoise_coefficients(stage)
        return add_up(alpha * x, noise, alpha=beta)

    def correlate(self, white: Tensor) -> Tensor:
        """Returns noise with covariance (1-gamma)I + gamma*11' + ridge*I in each 2x2 block, (B, C, H, W).

        The symmetric root of that matrix has the eigenvalue `common` along the block's mean and `inner` across it, so
        the result is a weighted sum of the noise and its block means, without 4x4 products.

        Args:
            white: (B, C, H, W), independent standard normal numbers.
        """
        inner = math.sqrt(1 - self.gamma + COVARIANCE_RIDGE)
        common = math.sqrt(max(0.0, 1 + 3 * self.gamma) + COVARIANCE_RIDGE)
        return add_up(down(white) * (common - inner), white, alpha=inner)


def stages_from_kickoff(image_size: int, kickoff: int) -> int:
    """Returns the number of stages from `kickoff` to `image_size`, rounded down (`Cascade` rejects a remainder)."""
    return max(1, (image_size // max(1, kickoff)).bit_length())
