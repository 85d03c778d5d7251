"""From noise to images: stage by stage, solver x guidance x renoise (PixelFlow section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixelflow.flow.cascade import Cascade
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Backbone, Condition, Conditioning, Guidance, Prediction, Solver

StageNoise = Callable[[int], Tensor]
"""`stage -> (B, C, h, w)`: white noise for stage 0, correlated noise for the others."""
Observer = Callable[[int, float | Tensor, Tensor], None]
"""`(stage, tau, x)`: called with the state at every evaluation, and at tau = 1 with the end of the stage."""


@dataclass(frozen=True)
class Samples:
    """x: (B, C, R, R), not clamped. stage_ends: the state at the end of each stage, the last being x.
    nfe: velocity evaluations. passes: forward passes per image, where a guided evaluation counts two; images may
    differ (see `Sampler`), then their mean.
    """

    x: Tensor
    stage_ends: list[Tensor]
    nfe: int
    passes: float


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8: clamp(x/2 + 0.5, 0, 1) * 255, rounded."""
    return (x.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


class Sampler:
    """Draws images from a backbone.

    An evaluation takes a second, null pass only for images whose guidance scale is not 1 and whose own condition is
    not the null condition; both halves go through the backbone in one call.
    channels: of the images. precision: "fp32", or "bf16" for autocast. stage_batch: for each stage the most images
    that are integrated together (the coarse stages have room for more than the last one); None: all of them.
    attention: the kernel of each stage's attention; None leaves the choice to torch.
    Raises ValueError where stage_batch does not fit the cascade.
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
        stage_batch: Sequence[int] | None = None,
        attention: Sequence[SDPBackend] | None = None,
    ) -> None:
        if stage_batch is not None and len(stage_batch) != cascade.num_stages:
            raise ValueError(f"stage_batch has {len(stage_batch)} entries for {cascade.num_stages} stages")
        self.backbone, self.cascade, self.prediction = backbone, cascade, prediction
        self.solver, self.guidance, self.conditioning = solver, guidance, conditioning
        self.channels, self.device, self.precision = channels, torch.device(device), precision
        self.stage_batch, self.attention = stage_batch, attention

    def keyed_noise(self, sample_ids: Sequence[int], seed: int) -> StageNoise:
        """Each image's own noise, by its id: the same whatever the batch."""
        random = KeyedRandom(seed)

        def noise(stage: int) -> Tensor:
            shape = (self.channels, self.cascade.resolution(stage), self.cascade.resolution(stage))
            white = random.normal(f"sample stage {stage}", sample_ids, shape, device=self.device)
            return white if stage == 0 else self.cascade.correlate(white)

        return noise

    @torch.inference_mode()
    def sample(self, condition: Condition, noise: StageNoise, observe: Observer | None = None) -> Samples:
        """One image per entry of `condition`."""
        null = self.conditioning.null(len(condition))
        guidable = condition.class_label.cpu() != null.class_label.cpu()
        condition, null = condition.to(self.device), null.to(self.device)
        x, ends, nfe, passes = noise(0), [], 0, 0
        for stage in range(self.cascade.num_stages):
            if stage > 0:
                x = self.cascade.renoise(x, stage, noise(stage))
            parts = []
            for part in _parts(len(x), self.stage_batch[stage] if self.stage_batch else len(x)):
                velocity = _StageVelocity(self, stage, condition[part], null[part], guidable[part], observe)
                state, evaluations = self._integrate(velocity, x[part], stage)
                parts.append(state)
                nfe, passes = nfe + evaluations, passes + velocity.passes
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
            if observe is not None:
                observe(stage, 1.0, x)
            ends.append(x)
        return Samples(x, ends, nfe, passes / len(x))

    def _integrate(self, velocity: _StageVelocity, x: Tensor, stage: int) -> tuple[Tensor, int]:
        if hasattr(self.backbone, "start_trajectory"):  # a wrapper that remembers from call to call
            self.backbone.start_trajectory()
        with sdpa_kernel(self.attention[stage]) if self.attention else nullcontext():
            return self.solver.integrate(velocity, x, self.solver.time_grid(stage))


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass
class _StageVelocity:
    """The guided velocity of one stage (a `VelocityFn`). guidable: (B,) on the CPU, which images may need a null pass.

    Nothing here waits for the device or copies to it where tau is one number: times reach it as constants of fill
    kernels. passes: forward passes of single images, so far.
    """

    sampler: Sampler
    stage: int
    condition: Condition
    null: Condition
    guidable: Tensor
    observe: Observer | None
    passes: int = 0
    _guided: Tensor | None = field(init=False)
    """Positions of the images that may need a null pass, on the device; None: all."""

    def __post_init__(self) -> None:
        everyone = bool(self.guidable.all())
        self._guided = None if everyone else self.guidable.nonzero()[:, 0].to(self.sampler.device)

    def __call__(
        self, x: Tensor, tau: float | Tensor, *, guidance_tau: float | None = None, images: Tensor | None = None
    ) -> Tensor:
        if self.observe is not None:
            self.observe(self.stage, tau, x)
        condition = self.condition if images is None else self.condition[images]
        null = self.null if images is None else self.null[images]
        scale, rows = self._scales(tau if guidance_tau is None else guidance_tau, images)
        guided = len(x) if rows is None else len(rows)
        self.passes += len(x) + guided
        if guided == 0:
            return self._forward(x, tau, condition)
        if rows is None:
            both = Condition.cat([null, condition])
            twice = torch.cat([tau, tau]) if isinstance(tau, Tensor) else tau
            v_null, v_cond = self._forward(torch.cat([x, x]), twice, both).split(len(x))
            return v_null + scale * (v_cond - v_null)
        both = Condition.cat([null[rows], condition])
        times = torch.cat([tau[rows], tau]) if isinstance(tau, Tensor) else tau
        v_null, v_cond = self._forward(torch.cat([x[rows], x]), times, both).split([guided, len(x)])
        return v_cond.index_copy(0, rows, v_null + scale * (v_cond[rows] - v_null))

    def _scales(self, tau: float | Tensor, images: Tensor | None) -> tuple[float | Tensor, Tensor | None]:
        """The guidance scale, and the positions in x of the images that it applies to (None: all of them).

        The scale is one number, or (len(positions), 1, 1, 1).
        """
        guidance = self.sampler.guidance
        if not isinstance(tau, Tensor):
            scale = guidance.scale(self.stage, tau)
            return scale, torch.empty(0, dtype=torch.int64) if scale == 1 else self._guided
        scales = torch.tensor([guidance.scale(self.stage, t) for t in tau.tolist()])
        guidable = self.guidable if images is None else self.guidable[images.cpu()]
        rows = ((scales != 1) & guidable).nonzero()[:, 0]
        device = self.sampler.device
        return scales[rows].to(device)[:, None, None, None], rows.to(device)

    def _forward(self, x: Tensor, tau: float | Tensor, condition: Condition) -> Tensor:
        sampler = self.sampler
        cascade, last_tau = sampler.cascade, sampler.solver.last_tau
        if isinstance(tau, Tensor):
            taus, timestep = tau.to(x), cascade.timestep(self.stage, tau, last_tau).float()
        else:
            constant = cascade.timestep(self.stage, torch.tensor(tau, dtype=torch.float64), last_tau).item()
            taus = torch.full((len(x),), tau, dtype=x.dtype, device=x.device)
            timestep = torch.full((len(x),), constant, dtype=torch.float32, device=x.device)
        with torch.autocast(sampler.device.type, torch.bfloat16, enabled=sampler.precision == "bf16"):
            raw = sampler.backbone(x, timestep, condition).output
        return sampler.prediction.velocity(raw.float(), x, taus, cascade.path(self.stage))
