"""Draws images stage by stage: the solver integrates the guided velocity of a stage, then the image is renoised.

Source: PixelFlow section 3.4.
Shape legend: B images of a batch, C channels, R side of the finished images, h and w sides of a stage's images.
"""

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
Evaluated = Callable[[int, float | Tensor, Tensor, Tensor], None]
"""`(stage, tau, x, velocity)`: called after an evaluation for all images of a batch."""


@dataclass(frozen=True)
class Samples:
    """A batch of images and what it cost.

    Args:
        x: Images, (B, C, R, R), not clamped.
        stage_ends: State at the end of each stage; the last is `x`.
        nfe: Velocity evaluations.
        stage_passes: Forward passes per image in each stage, the mean over the batch. A guided evaluation takes two.
    """

    x: Tensor
    stage_ends: list[Tensor]
    nfe: int
    stage_passes: tuple[float, ...]

    @property
    def passes(self) -> float:
        """Forward passes per image, over all stages."""
        return sum(self.stage_passes)


def to_uint8(x: Tensor) -> Tensor:
    """Maps [-1, 1] to 0..255: clamp(x/2 + 0.5, 0, 1) * 255, rounded to the nearest."""
    return (x.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


class Sampler:
    """Draws images from a backbone.

    An evaluation needs a second, unconditional forward pass only for images whose guidance scale is not 1 and whose
    own condition is not the null condition. Both passes are one call of the backbone.

    Args:
        backbone: The network, in evaluation mode.
        cascade: Stages and renoising.
        prediction: Converts the network's output to the velocity.
        solver: Integrates a stage.
        guidance: Guidance scale by stage and time.
        conditioning: Gives the null condition.
        channels: Channels of the images.
        device: Device of the backbone.
        precision: "fp32", or "bf16" for autocast.
        stage_batch: For each stage the largest number of images that are integrated together, since the coarse stages
            have room for more than the last one; None for all of them.
        attention: Attention kernel of each stage; None leaves the choice to torch.

    Raises:
        ValueError: `stage_batch` does not have one entry for each stage.
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
        """Returns the noise of some images. It is keyed by the seed and the image's id, so the batch does not matter.

        Args:
            sample_ids: The ids of the B images.
            seed: Seed of all images.
        """
        random = KeyedRandom(seed)

        def noise(stage: int) -> Tensor:
            shape = (self.channels, self.cascade.resolution(stage), self.cascade.resolution(stage))
            white = random.normal(f"sample stage {stage}", sample_ids, shape, device=self.device)
            return white if stage == 0 else self.cascade.correlate(white)

        return noise

    @torch.inference_mode()
    def sample(
        self,
        condition: Condition,
        noise: StageNoise,
        observe: Observer | None = None,
        evaluated: Evaluated | None = None,
    ) -> Samples:
        """Draws one image for each entry of `condition`.

        Args:
            condition: Conditions of B images.
            noise: Gives the noise of each stage, (B, C, h, w).
            observe: Called with every state, see `Observer`.
            evaluated: Called with every velocity, see `Evaluated`.
        """
        null = self.conditioning.null(len(condition))
        guidable = condition.class_label.cpu() != null.class_label.cpu()
        condition, null = condition.to(self.device), null.to(self.device)
        x, ends, nfe, passes = noise(0), [], 0, [0] * self.cascade.num_stages
        for stage in range(self.cascade.num_stages):
            if stage > 0:
                x = self.cascade.renoise(x, stage, noise(stage))
            parts = []
            for part in _parts(len(x), self.stage_batch[stage] if self.stage_batch else len(x)):
                velocity = _StageVelocity(self, stage, condition[part], null[part], guidable[part], observe, evaluated)
                state, evaluations = self._integrate(velocity, x[part], stage)
                parts.append(state)
                nfe, passes[stage] = nfe + evaluations, passes[stage] + velocity.passes
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
            if observe is not None:
                observe(stage, 1.0, x)
            ends.append(x)
        return Samples(x, ends, nfe, tuple(number / len(x) for number in passes))

    def _integrate(self, velocity: _StageVelocity, x: Tensor, stage: int) -> tuple[Tensor, int]:
        if hasattr(self.backbone, "start_trajectory"):  # a wrapper that keeps features between evaluations
            self.backbone.start_trajectory()
        with sdpa_kernel(self.attention[stage]) if self.attention else nullcontext():
            return self.solver.integrate(velocity, x, self.solver.time_grid(stage))


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass
class _StageVelocity:
    """The guided velocity of one stage (a `VelocityFn`).

    If tau is one number, nothing here synchronises with the device or copies to it: times are constants of fill
    kernels.

    Args:
        sampler: Gives the backbone, the guidance and the flow.
        stage: Number of the stage.
        condition: Conditions of B images.
        null: B null conditions.
        guidable: (B,) bool on the CPU: whether an image may need a pass with the null condition.
        observe: Called with every state, or None.
        evaluated: Called with every velocity, or None.
        passes: Forward passes of single images so far.
    """

    sampler: Sampler
    stage: int
    condition: Condition
    null: Condition
    guidable: Tensor
    observe: Observer | None
    evaluated: Evaluated | None = None
    passes: int = 0
    _guided: Tensor | None = field(init=False)
    """Positions of the images that may need a null pass, on the device; None for all images."""

    def __post_init__(self) -> None:
        everyone = bool(self.guidable.all())
        self._guided = None if everyone else self.guidable.nonzero()[:, 0].to(self.sampler.device)

    def __call__(
        self, x: Tensor, tau: float | Tensor, *, guidance_tau: float | None = None, images: Tensor | None = None
    ) -> Tensor:
        if self.observe is not None:
            self.observe(self.stage, tau, x)
        velocity = self._velocity(x, tau, guidance_tau, images)
        if self.evaluated is not None and images is None:
            self.evaluated(self.stage, tau, x, velocity)
        return velocity

    def _velocity(self, x: Tensor, tau: float | Tensor, guidance_tau: float | None, images: Tensor | None) -> Tensor:
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
        """Returns the guidance scale, one number or (n, 1, 1, 1), and the n positions in x that it applies to, or None.

        None stands for all images.
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
        return stage_velocity(
            sampler.backbone, sampler.cascade, sampler.prediction, x, tau, condition,
            stage=self.stage, precision=sampler.precision, last_tau=sampler.solver.last_tau,
        )  # fmt: skip


def stage_velocity(
    backbone: Backbone,
    cascade: Cascade,
    prediction: Prediction,
    x: Tensor,
    tau: float | Tensor,
    condition: Condition,
    *,
    stage: int,
    precision: str = "fp32",
    last_tau: float | None = None,
) -> Tensor:
    """Evaluates the velocity of a stage in one forward pass, without guidance.

    Args:
        backbone: The network.
        cascade: Its timesteps and paths.
        prediction: Converts the network's output to the velocity.
        x: States, (B, C, h, w).
        tau: Time within the stage, one number or (B,).
        condition: B conditions.
        stage: Number of the stage.
        precision: "fp32", or "bf16" for autocast.
        last_tau: See `Cascade.timestep`.

    Returns:
        The velocity, (B, C, h, w) float32.
    """
    if isinstance(tau, Tensor):
        taus, timestep = tau.to(x), cascade.timestep(stage, tau, last_tau).float()
    else:
        constant = cascade.timestep(stage, torch.tensor(tau, dtype=torch.float64), last_tau).item()
        taus = torch.full((len(x),), tau, dtype=x.dtype, device=x.device)
        timestep = torch.full((len(x),), constant, dtype=torch.float32, device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        raw = backbone(x, timestep, condition).output
    return prediction.velocity(raw.float(), x, taus, cascade.path(stage))
