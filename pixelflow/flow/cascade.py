"""The cascade: which part of the flow each resolution covers, and how one resolution hands over to the next.

Sources: PixelFlow section 3.2, and its release for the numbers; for renoising Pyramid Flow (arXiv 2410.05954, 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pixelflow.flow.path import StagePath, add_up, down
from pixelflow.types import FlowSample

COVARIANCE_RIDGE = 1e-6
"""Added to the covariance of the correlated noise, which is singular at gamma = -1/3."""


@dataclass(frozen=True)
class Stage:
    """One resolution of the cascade.

    start, end: window of the flow (shares of the clean image). original_start: start before the jump correction.
    first_timestep, last_timestep: the numbers that the backbone is told at tau = 0 and tau = 0.999.
    """

    path: StagePath
    resolution: int
    original_start: float
    first_timestep: float
    last_timestep: float


class Cascade:
    """`num_stages` resolutions, each twice the one before, up to `image_size`.

    kickoff: the resolution of stage 0, where a config states it; it must agree with the two others.
    gamma: correlation of the renoising noise inside a 2x2 block, in [-1/3, 0).
    num_train_timesteps: values of the timestep per stage in training; the stages share out as many whole numbers.
    t_eps: see StagePath.
    max_timestep: the backbone is told numbers in [0, max_timestep): its own attribute of that name.
    Raises ValueError where image_size does not allow num_stages or kickoff, or gamma is out of range.
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
        max_timestep: float = 1000.0,
    ) -> None:
        if num_stages < 1:
            raise ValueError(f"num_stages={num_stages} must be at least 1")
        factor = 2 ** (num_stages - 1)
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
        if not -1 / 3 - 1e-9 <= gamma < 0:
            raise ValueError(f"gamma={gamma} must be in [-1/3, 0)")
        if not 0 < t_eps < 1:
            raise ValueError(f"t_eps={t_eps} must be in (0, 1)")
        self.image_size = image_size
        self.num_stages = num_stages
        self.gamma = gamma
        self.num_train_timesteps, self.max_timestep = num_train_timesteps, max_timestep
        self.stages = self._stages(t_eps)

    def _stages(self, t_eps: float) -> list[Stage]:
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
            path = StagePath(stage=s, start=starts[s], end=ends[s], t_eps=t_eps)
            stages.append(Stage(path, self.image_size >> (n - 1 - s), original[s], float(cuts[s]), float(last)))
        return stages

    def _jump_correction(self, original_start: float) -> float:
        """r: what renoising scales the enlarged image by."""
        return 1 / (math.sqrt(1 - 1 / self.gamma) * (1 - original_start) + original_start)

    @property
    def kickoff(self) -> int:
        """Resolution of stage 0 in pixels."""
        return self.stages[0].resolution

    def path(self, stage: int) -> StagePath:
        return self.stages[stage].path

    def resolution(self, stage: int) -> int:
        return self.stages[stage].resolution

    def timestep(self, stage: int, tau: Tensor, last_tau: float | None = None) -> Tensor:
        """What the backbone is told at tau: the stage's own range of [0, max_timestep), float64.

        last_tau: where the range's last value stands. Training draws tau = i / 1000 with i < 1000, so it belongs to
        tau = 0.999, the default, and for one stage the timestep is tau * max_timestep; the release's adaptive solver
        puts it at tau = 1.
        """
        s = self.stages[stage]
        if last_tau is None:
            last_tau = (self.num_train_timesteps - 1) / self.num_train_timesteps
        timestep = s.first_timestep + tau.double() / last_tau * (s.last_timestep - s.first_timestep)
        return timestep * (self.max_timestep / self.num_train_timesteps)

    def image_at(self, x: Tensor, stage: int) -> Tensor:
        """x (B, C, R, R) at full resolution -> the clean image of `stage`."""
        for _ in range(self.num_stages - 1 - stage):
            x = down(x)
        return x

    def flow_sample(self, x: Tensor, *, stage: int, tau: Tensor, noise: Tensor, index: Tensor) -> FlowSample:
        """Images x (b, C, R, R) at full resolution, noised on the path of `stage`.

        tau: (b,). noise: (b, C, h, w) at the stage's resolution. index: (b,), their positions in the batch.
        """
        x = self.image_at(x, stage)
        path = self.path(stage)
        x_t = path.interpolate(x, noise, tau)
        return FlowSample(path, x, noise, tau, self.timestep(stage, tau).to(x), x_t, index)

    def renoise_coefficients(self, stage: int) -> tuple[float, float]:
        """alpha, beta: scale of the enlarged image and of the correlated noise at the start of `stage` > 0."""
        s0 = self.stages[stage].original_start
        alpha = self._jump_correction(s0)
        return alpha, alpha * (1 - s0) / math.sqrt(-self.gamma)

    def renoise(self, x: Tensor, stage: int, noise: Tensor) -> Tensor:
        """The end of stage - 1 as the start of `stage`.

        x: (B, C, H, W). noise: (B, C, 2H, 2W) from `correlate`. Returns (B, C, 2H, 2W).
        """
        alpha, beta = self.renoise_coefficients(stage)
        return add_up(alpha * x, noise, alpha=beta)

    def correlate(self, white: Tensor) -> Tensor:
        """White noise (B, C, H, W) -> noise with covariance (1-gamma)I + gamma*11' + ridge*I in each 2x2 block.

        The symmetric root of that matrix has the value `common` along the block's mean and `inner` across it, so it
        is a weighted sum of the noise and its block means: no loop over blocks, no 4x4 products.
        """
        inner = math.sqrt(1 - self.gamma + COVARIANCE_RIDGE)
        common = math.sqrt(max(0.0, 1 + 3 * self.gamma) + COVARIANCE_RIDGE)
        return add_up(down(white) * (common - inner), white, alpha=inner)


def stages_from_kickoff(image_size: int, kickoff: int) -> int:
    """Stages from `kickoff` to `image_size`, rounded down where no power of two leads there (Cascade refuses that)."""
    return max(1, (image_size // max(1, kickoff)).bit_length())
