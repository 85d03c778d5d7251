"""Computes one optimizer step: draw, forward, objective, backward, update, average.

A step is a function of weights, optimizer state, step number and batch: every random number is keyed by the seed and
by one of them. So it is the same after a restart, on any number of processes, and for any accumulation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pixelflow.flow.rng import KeyedRandom
from pixelflow.losses.adaptive_weight import AdaptiveWeight
from pixelflow.losses.objective import Objective, ObjectiveValue
from pixelflow.training.draw import FlowParts, draw_flow_samples, draw_stages, draw_times
from pixelflow.training.guard import StepGuard
from pixelflow.training.out_of_memory import explained_out_of_memory
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState
from pixelflow.types import Batch, Predicted

logger = logging.getLogger(__name__)


class OptimizerStep:
    """Computes optimizer steps on this process's share of each batch.

    Args:
        state: Backbone, averages, optimizer and objective; a step changes them in place.
        flow: The parts that make training samples of clean images.
        settings: Batch size, accumulation, precision, clipping and warm-up.
        seed: Key of all random numbers of the training.
        mark: Called with a short description when a phase of the step begins (see `Watchdog`).
    """

    def __init__(
        self,
        *,
        state: TrainingState,
        flow: FlowParts,
        settings: TrainerSettings,
        seed: int,
        mark: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.state, self.flow, self.settings, self.mark = state, flow, settings, mark
        self.network, self.world, self.device = state.network, state.network.world, state.network.device
        self.random, self.guard = KeyedRandom(seed), StepGuard()
        self._trained_losses = [p for p in state.objective.parameters() if p.requires_grad]
        self._base_lrs = [group["lr"] for group in state.optimizer.param_groups]
        # A fused optimizer reads on the device whether to skip the step; for another one the host must wait for it.
        self._skips_on_device = getattr(state.optimizer, "_step_supports_amp_scaling", False)

    def __call__(self, batch: Batch, step: int) -> ObjectiveValue:
        """Takes optimizer step `step` + 1, unless its loss or gradient is not finite.

        Args:
            batch: This process's share of the images of the step.
            step: Number of steps taken before.

        Returns:
            The objective on this process's share, without a graph.

        Raises:
            WorkFailed: The memory of the device is not sufficient.
        """
        self._set_learning_rate(step)
        batch = batch.to(self.device)
        mine = self.world.slice(self.settings.batch_size)
        cascade, timesteps = self.flow.cascade, self.flow.timesteps
        step_stages = draw_stages(
            num_stages=cascade.num_stages, batch_size=self.settings.batch_size, random=self.random, step=step
        )
        step_tau = draw_times(
            self._step_ids(batch), step_stages, cascade=cascade, timesteps=timesteps, random=self.random
        )
        stages, tau = step_stages[mine], step_tau[mine]
        adaptive = self.state.objective.adaptive
        measured = adaptive if adaptive is not None and adaptive.due(step) else None
        self.state.backbone.train()
        values = []
        with explained_out_of_memory(self.state, self.flow.cascade, self.settings, step=step + 1):
            for number, part in enumerate(self._parts(len(batch))):
                self._seed_dropout(number, step)
                with self.network.part(last=number == self.settings.accumulate - 1):
                    values.append(self._forward_backward(batch[part], stages[part], tau[part], step_tau, measured))
            value = ObjectiveValue.merged(values)
            self._update(value.loss.clone(), step, measured)
        return value

    def _forward_backward(
        self, batch: Batch, stages: Tensor, tau: Tensor, step_tau: Tensor, measured: AdaptiveWeight | None
    ) -> ObjectiveValue:
        self.mark("computing forward")
        value = self.forward(batch, stages, tau, step_tau)
        if measured is not None:
            assert value.reference is not None and value.adapted is not None
            measured.observe(value.reference, value.adapted, self.state.backbone.last_layer.weight)  # type: ignore
        self.mark("computing backward")
        # The losses of the parts add up to the loss of the step; gradients are averaged over the processes.
        (value.loss * self.world.size).backward()
        # The value is kept until it is logged, and must not keep the graph in memory.
        return replace(value, loss=value.loss.detach(), reference=None, adapted=None)

    def forward(
        self, batch: Batch, stages: Tensor, tau: Tensor, step_tau: Tensor, *, objective: Objective | None = None
    ) -> ObjectiveValue:
        """Computes the objective on some images of a step.

        Args:
            batch: (B, C, H, W) clean images with their conditions.
            stages: (B,) int64, the stage of each image.
            tau: (B,) float64 in [0, 1], the time of each image within its stage.
            step_tau: tau of all images of the step, of all processes; the gates of losses compare with it.
            objective: Another objective than that of the training.

        Returns:
            The objective, with its graph.
        """
        objective = objective or self.state.objective
        batch = batch.to(self.device)
        samples = draw_flow_samples(batch, stages, tau, cascade=self.flow.cascade, random=self.random)
        uniform = self.random.uniform("drop", batch.sample_id.tolist())
        condition = self.flow.conditioning.drop(self.flow.conditioning.encode(batch), uniform)
        order = torch.cat([sample.index for sample in samples])
        timestep = torch.cat([sample.timestep for sample in samples])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            images = [sample.x_t for sample in samples]
            output = self.network.module(images, timestep, condition[order], features=objective.layers)
        predicted = [
            Predicted(
                output.output[i].float(), sample, self.flow.prediction,
                {layer: groups[i] for layer, groups in output.features.items()},
            )
            for i, sample in enumerate(samples)
        ]  # fmt: skip
        return objective(predicted, batch, step_tau, tau=tau)

    def _update(self, loss: Tensor, step: int, measured: AdaptiveWeight | None) -> None:
        """Applies the gradients to the weights, unless the step is not finite."""
        self.mark("updating")
        self.network.collect_gradients(self._trained_losses)
        self.world.add(loss)
        grad_norm = self.network.gradient_norm(self._trained_losses)
        self.settle()  # the step before: its average needs the weights that this update changes
        bad = self.guard.judge(step + 1, loss, grad_norm)
        if self.settings.grad_clip is not None:
            clipped = [p for p in (*self.network.parameters, *self._trained_losses) if p.grad is not None]
            nn.utils.clip_grads_with_norm_(clipped, self.settings.grad_clip, grad_norm)
        optimizer = self.state.optimizer
        if self._skips_on_device:
            optimizer.found_inf = bad  # type: ignore[attr-defined]
        if self._skips_on_device or not bad.item():
            optimizer.step()
        self.network.drop_gradients()
        optimizer.zero_grad(set_to_none=True)
        if measured is not None:
            measured.update(self.world.add, taken=bad == 0)

    def settle(self) -> None:
        """Reads whether the last step was taken, and then averages its weights. Waits for the device if it must."""
        if (verdict := self.guard.settle()) is not None:
            step, taken = verdict
            if taken:
                self.state.ema.update(self.network.parameters, step)
            else:
                loss, norm = self.guard.last
                logger.warning("step %d is skipped: loss %g, gradient norm %g", step, loss, norm)

    def _seed_dropout(self, number: int, step: int) -> None:
        # Dropout draws from the global generator, whose state a resumed step must find as it was.
        place = self.world.rank * self.settings.accumulate + number
        torch.manual_seed(self.random.generator("dropout", place, step).integers(2**62))

    def _parts(self, images: int) -> list[slice]:
        size = images // self.settings.accumulate
        return [slice(start, start + size) for start in range(0, images, size)]

    def _step_ids(self, batch: Batch) -> Tensor:
        """Sample ids of the step in all processes: each loader yields a consecutive share."""
        if self.world.size == 1:
            return batch.sample_id
        first = int(batch.sample_id[0]) - self.world.rank * len(batch)
        return torch.arange(first, first + self.settings.batch_size)

    def _set_learning_rate(self, step: int) -> None:
        warmup = self.settings.warmup_steps
        factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
        for group, base in zip(self.state.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base * factor
