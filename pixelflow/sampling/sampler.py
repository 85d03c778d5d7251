"""From noise to images: stage by stage, solver x guidance x renoise (PixelFlow section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelflow.flow.cascade import Cascade
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Backbone, Condition, Conditioning, Guidance, Prediction, Solver

StageNoise = Callable[[int], Tensor]
"""`stage -> (B, C, h, w)`: white noise for stage 0, correlated noise for the others."""


@dataclass(frozen=True)
class Samples:
    """x: (B, C, R, R), not clamped. stage_ends: the state at the end of each stage, the last being x.
    nfe: velocity evaluations. passes: forward passes per image, where a guided evaluation counts two.
    """

    x: Tensor
    stage_ends: list[Tensor]
    nfe: int
    passes: int


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8: clamp(x/2 + 0.5, 0, 1) * 255, rounded."""
    return (x.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


class Sampler:
    """Draws images from a backbone.

    channels: of the images. precision: "fp32", or "bf16" for autocast.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        cascade: Cascade,
        prediction: Prediction,
        solver: Solver,
        guidance: Guidance,
        conditioning: Conditioning,
        channels: int,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.backbone, self.cascade, self.prediction = backbone, cascade, prediction
        self.solver, self.guidance, self.conditioning = solver, guidance, conditioning
        self.channels, self.device, self.precision = channels, torch.device(device), precision

    def keyed_noise(self, sample_ids: Sequence[int], seed: int) -> StageNoise:
        """Each image's own noise, by its id: the same whatever the batch."""
        random = KeyedRandom(seed)

        def noise(stage: int) -> Tensor:
            shape = (self.channels, self.cascade.resolution(stage), self.cascade.resolution(stage))
            white = random.normal(f"sample stage {stage}", sample_ids, shape, device=self.device)
            return white if stage == 0 else self.cascade.correlate(white)

        return noise

    @torch.inference_mode()
    def sample(self, condition: Condition, noise: StageNoise) -> Samples:
        """One image per entry of `condition`."""
        condition = condition.to(self.device)
        null = self.conditioning.null(len(condition)).to(self.device)
        x, ends, nfe, self._passes = noise(0), [], 0, 0
        for stage in range(self.cascade.num_stages):
            if stage > 0:
                x = self.cascade.renoise(x, stage, noise(stage))
            x, evaluations = self.solver.integrate(
                self._velocity(stage, condition, null), x, self.solver.time_grid(stage)
            )
            nfe += evaluations
            ends.append(x)
        return Samples(x, ends, nfe, self._passes)

    def _velocity(self, stage: int, condition: Condition, null: Condition) -> Callable[[Tensor, float], Tensor]:
        path, both = self.cascade.path(stage), Condition.cat([null, condition])

        def forward(x: Tensor, tau: float, condition: Condition) -> Tensor:
            taus = torch.full((len(x),), tau, dtype=torch.float64)
            timestep = self.cascade.timestep(stage, taus).float().to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                raw = self.backbone(x, timestep, condition).output
            return self.prediction.velocity(raw.float(), x, taus.to(x), path)

        def velocity(x: Tensor, tau: float) -> Tensor:
            scale = self.guidance.scale(stage, tau)
            if scale == 1:
                self._passes += 1
                return forward(x, tau, condition)
            self._passes += 2
            v_null, v_cond = forward(torch.cat([x, x]), tau, both).chunk(2)
            return v_null + scale * (v_cond - v_null)

        return velocity
