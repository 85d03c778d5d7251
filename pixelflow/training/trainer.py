"""The training loop: draw, forward, objective, step, average, log, save.

A step is a function of (weights, optimizer, step number, position in the data): every random number is keyed by one
of them, so a run that stops and resumes is the run that did not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pixelflow.flow.cascade import Cascade
from pixelflow.flow.rng import KeyedRandom
from pixelflow.flow.timesteps import UniformTimesteps
from pixelflow.losses.objective import Objective, ObjectiveValue
from pixelflow.training.checkpoint import CheckpointStore, flatten_optimizer, restore_optimizer
from pixelflow.training.draw import draw_flow_samples, draw_stages
from pixelflow.training.ema import EMA
from pixelflow.training.progress import Progress
from pixelflow.types import Batch, Conditioning, Loader, Predicted, Prediction

logger = logging.getLogger(__name__)


class TrainingDiverged(ValueError):
    """The loss or a gradient is not finite; the message names the step and the checkpoint that is kept."""


@dataclass(frozen=True)
class TrainerSettings:
    """How long and how to train.

    max_steps: optimizer steps. batch_size: images per step. accumulate: parts of equal size that a step's batch is
    computed in, to save memory. grad_clip: largest norm of the gradient, null for none. warmup_steps: steps over which
    the learning rate rises linearly. precision: fp32, or bf16 for autocast with float32 weights.
    log_every, save_every, grid_every: in steps, 0 for never; keep_checkpoints: how many of the newest stay.
    device: "auto" takes a GPU where there is one.
    Raises ValueError for numbers out of range.
    """

    max_steps: int
    batch_size: int
    accumulate: int = 1
    grad_clip: float | None = 1.0
    warmup_steps: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 50
    save_every: int = 1000
    grid_every: int = 0
    keep_checkpoints: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "accumulate", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("warmup_steps", "save_every", "grid_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} must divide batch_size={self.batch_size}")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip={self.grad_clip} must be above 0, or null for none")


class Trainer:
    """Trains `backbone` to `settings.max_steps`. `resume` before `fit` goes on from the newest whole checkpoint.

    config: stored in every checkpoint, as plain values. log: called as log(metrics, step). on_grid: called as
    on_grid(model, step) every grid_every steps.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        cascade: Cascade,
        timesteps: UniformTimesteps,
        prediction: Prediction,
        conditioning: Conditioning,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        loader: Loader,
        checkpoints: CheckpointStore,
        settings: TrainerSettings,
        seed: int,
        device: torch.device,
        config: Mapping[str, Any],
        log: Callable[[dict[str, float], int], None],
        on_grid: Callable[[nn.Module, int], None] | None = None,
    ) -> None:
        self.backbone, self.cascade, self.timesteps, self.prediction = backbone, cascade, timesteps, prediction
        self.conditioning, self.objective, self.optimizer, self.ema = conditioning, objective, optimizer, ema
        self.loader, self.checkpoints, self.settings = loader, checkpoints, settings
        self.device, self.config, self.log, self.on_grid = device, config, log, on_grid
        self.random = KeyedRandom(seed)
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.step = 0
        ema.attach(backbone)

    def fit(self) -> int:
        """Train to the end; returns the step reached. Raises TrainingDiverged, or OSError if a save fails."""
        s = self.settings
        progress = Progress(total=s.max_steps, done=self.step)
        batches = iter(self.loader)
        try:
            while self.step < s.max_steps:
                value, grad_norm = self.train_step(next(batches))
                progress.advance(1, images=s.batch_size)
                if self.step % s.log_every == 0 or self.step == s.max_steps:
                    metrics = self._metrics(value, grad_norm) | {"images_per_second": progress.images_per_second()}
                    self.log(metrics, self.step)
                    progress.show(f"loss {metrics['loss']:.4f}")
                if s.grid_every and self.step % s.grid_every == 0 and self.on_grid and self.ema.model is not None:
                    self.on_grid(self.ema.model, self.step)
                if self.step == s.max_steps or (s.save_every and self.step % s.save_every == 0):
                    self.save()
        finally:
            progress.close()
        return self.step

    def train_step(self, batch: Batch) -> tuple[ObjectiveValue, Tensor]:
        """One optimizer step on a whole batch."""
        self._set_learning_rate()
        stages = draw_stages(
            num_stages=self.cascade.num_stages, batch_size=len(batch), random=self.random, step=self.step
        )
        self.backbone.train()
        parts = torch.arange(len(batch)).chunk(self.settings.accumulate)
        values = []
        for part in parts:
            value = self._objective(batch[part], stages[part])
            (value.loss / len(parts)).backward()
            values.append(value)
        value = _mean(values)
        grad_norm = nn.utils.get_total_norm(p.grad for p in self.backbone.parameters() if p.grad is not None)
        self._require_finite(value.loss, grad_norm)
        if self.settings.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.backbone.parameters(), self.settings.grad_clip, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.backbone, self.step)
        return value, grad_norm

    def _objective(self, batch: Batch, stages: Tensor) -> ObjectiveValue:
        batch = batch.to(self.device)
        samples = draw_flow_samples(batch, stages, cascade=self.cascade, timesteps=self.timesteps, random=self.random)
        uniform = self.random.uniform("drop", batch.sample_id.tolist())
        condition = self.conditioning.drop(self.conditioning.encode(batch), uniform)
        order = torch.cat([sample.index for sample in samples])
        timestep = torch.cat([sample.timestep for sample in samples])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            output = self.backbone([sample.x_t for sample in samples], timestep, condition[order])
        predicted = [
            Predicted(raw.float(), sample, self.prediction) for raw, sample in zip(output.output, samples, strict=True)
        ]
        return self.objective(predicted, batch)

    def _set_learning_rate(self) -> None:
        warmup = self.settings.warmup_steps
        factor = min(1.0, (self.step + 1) / warmup) if warmup else 1.0
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor

    def _require_finite(self, loss: Tensor, grad_norm: Tensor) -> None:
        if torch.isfinite(loss) and torch.isfinite(grad_norm):
            return
        kept = self.checkpoints.steps()
        where = f"{self.checkpoints.path(kept[-1])} is kept" if kept else "no checkpoint was saved yet"
        what = "loss" if not torch.isfinite(loss) else "gradient"
        raise TrainingDiverged(
            f"the {what} is not finite at step {self.step + 1} (loss {loss:g}, gradient norm {grad_norm:g}); {where}. "
            f"Lower optimizer.lr, raise trainer.warmup_steps, or lower trainer.grad_clip"
        )

    def _metrics(self, value: ObjectiveValue, grad_norm: Tensor) -> dict[str, float]:
        metrics = {"loss": value.loss.item(), "grad_norm": grad_norm.item(), "lr": self.optimizer.param_groups[0]["lr"]}
        metrics |= {f"loss/{name}": term.item() for name, term in value.terms.items()}
        return metrics | {f"loss/stage_{stage}": loss.item() for stage, loss in value.stages.items()}

    def save(self) -> None:
        """A checkpoint of everything that the next step depends on."""
        assert self.ema.model is not None
        slots, groups = flatten_optimizer(self.optimizer)
        tensors = {
            "model": self.backbone.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": slots,
        }
        state = {"config": self.config, "optimizer_groups": groups, "loader": self.loader.state_dict()}
        path = self.checkpoints.save(self.step, tensors, state)
        logger.debug("saved %s", path)

    def resume(self) -> None:
        """Continue from the newest checkpoint that verifies."""
        checkpoint, problems = self.checkpoints.latest()
        for problem in problems:
            logger.warning("skipped a checkpoint: %s", problem)
        if checkpoint is None:
            return
        assert self.ema.model is not None
        self.backbone.load_state_dict(checkpoint.tensors["model"])
        self.ema.model.load_state_dict(checkpoint.tensors["ema"])
        state: dict[str, Any] = checkpoint.state
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"], state["optimizer_groups"])
        self.loader.load_state_dict(state["loader"])
        self.step = checkpoint.step
        logger.info("resumed from %s", checkpoint.path)


def _mean(values: Sequence[ObjectiveValue]) -> ObjectiveValue:
    """The values of a step's equal parts as one."""
    if len(values) == 1:
        return values[0]
    n = len(values)
    images = {s: sum(v.images.get(s, 0) for v in values) for s in sorted({s for v in values for s in v.stages})}
    return ObjectiveValue(
        torch.stack([v.loss.detach() for v in values]).mean(),
        {name: torch.stack([v.terms[name] for v in values]).sum() / n for name in values[0].terms},
        {
            s: torch.stack([v.stages[s] * v.images[s] for v in values if s in v.stages]).sum() / images[s]
            for s in images
        },
        images,
    )
