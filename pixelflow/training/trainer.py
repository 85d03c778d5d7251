"""The training loop: draw, forward, objective, step, average, log, save.

A step is a function of (weights, optimizer, step number, position in the data): every random number is keyed by one
of them, so a run that stops and resumes is the run that did not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pixelflow.flow.cascade import Cascade
from pixelflow.flow.rng import KeyedRandom
from pixelflow.losses.objective import Objective, ObjectiveValue
from pixelflow.training.checkpoint import CheckpointStore, flatten_optimizer, restore_optimizer
from pixelflow.training.draw import draw_flow_samples, draw_stages, draw_times
from pixelflow.training.ema import EMA
from pixelflow.training.progress import Progress
from pixelflow.types import Batch, Conditioning, Interrupted, Loader, Predicted, Prediction, Timesteps

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

    objective: prepared; what it trains itself is in the optimizer and the checkpoints, but not in the average.
    config: stored in every checkpoint, as plain values. log: called as log(metrics, step). on_grid: called as
    on_grid(model, step) every grid_every steps. stop: asked after every step; true ends `fit` with a checkpoint.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        cascade: Cascade,
        timesteps: Timesteps,
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
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.backbone, self.cascade, self.timesteps, self.prediction = backbone, cascade, timesteps, prediction
        self.conditioning, self.objective, self.optimizer, self.ema = conditioning, objective, optimizer, ema
        self.loader, self.checkpoints, self.settings = loader, checkpoints, settings
        self.device, self.config, self.log, self.on_grid, self.stop = device, config, log, on_grid, stop
        self.random = KeyedRandom(seed)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.step = 0
        ema.attach(backbone)

    def fit(self) -> int:
        """Train to the end; returns the step reached.

        Raises Interrupted when it was asked to stop, TrainingDiverged, or OSError if a save fails.
        """
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
                stop = self.stop() and self.step < s.max_steps
                if stop or self.step == s.max_steps or (s.save_every and self.step % s.save_every == 0):
                    self.save()
                if stop:
                    raise Interrupted(f"saved at step {self.step} of {s.max_steps}")
        finally:
            progress.close()
        return self.step

    def train_step(self, batch: Batch) -> tuple[ObjectiveValue, Tensor]:
        """One optimizer step on a whole batch."""
        self._set_learning_rate()
        stages = draw_stages(
            num_stages=self.cascade.num_stages, batch_size=len(batch), random=self.random, step=self.step
        )
        tau = draw_times(batch.sample_id, timesteps=self.timesteps, random=self.random)
        adaptive = self.objective.adaptive
        measured = adaptive if adaptive is not None and adaptive.due(self.step) else None
        self.backbone.train()
        values = []
        for number, part in enumerate(torch.arange(len(batch)).chunk(self.settings.accumulate)):
            # Dropout draws from the global generator: a resumed step must find it as it was.
            torch.manual_seed(self.random.generator("dropout", number, self.step).integers(2**62))
            value = self.forward(batch[part], stages[part], tau[part], tau)
            if measured is not None:
                assert value.reference is not None and value.adapted is not None
                measured.observe(value.reference, value.adapted, self.backbone.last_layer.weight)  # type: ignore
            value.loss.backward()
            values.append(value)
        value = ObjectiveValue.merged(values)
        grad_norm = nn.utils.get_total_norm(p.grad for p in self.parameters if p.grad is not None)
        self._require_finite(value.loss, grad_norm)
        if self.settings.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.grad_clip, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if measured is not None:
            measured.update()
        self.step += 1
        self.ema.update(self.backbone, self.step)
        return value, grad_norm

    def forward(self, batch: Batch, stages: Tensor, tau: Tensor, step_tau: Tensor) -> ObjectiveValue:
        """batch, stages, tau: a part of the step. step_tau: tau of all its images."""
        batch = batch.to(self.device)
        samples = draw_flow_samples(batch, stages, tau, cascade=self.cascade, random=self.random)
        uniform = self.random.uniform("drop", batch.sample_id.tolist())
        condition = self.conditioning.drop(self.conditioning.encode(batch), uniform)
        order = torch.cat([sample.index for sample in samples])
        timestep = torch.cat([sample.timestep for sample in samples])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            images = [sample.x_t for sample in samples]
            output = self.backbone(images, timestep, condition[order], features=self.objective.layers)
        predicted = [
            Predicted(
                output.output[i].float(), sample, self.prediction,
                {layer: groups[i] for layer, groups in output.features.items()},
            )
            for i, sample in enumerate(samples)
        ]  # fmt: skip
        return self.objective(predicted, batch, step_tau)

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
        if self.objective.adaptive is not None:
            metrics["adaptive_weight"] = self.objective.adaptive.value.item()
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
        if objective := self.objective.state_dict():
            tensors["objective"] = objective
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
        self.objective.load_state_dict(checkpoint.tensors.get("objective", {}))
        state: dict[str, Any] = checkpoint.state
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"], state["optimizer_groups"])
        self.loader.load_state_dict(state["loader"])
        self.step = checkpoint.step
        logger.info("resumed from %s", checkpoint.path)
