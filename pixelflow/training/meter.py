"""The numbers that a running training logs: losses, speed, utilisation, waiting time and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from pixelflow.losses.objective import ObjectiveValue
from pixelflow.training.costs import StepCosts
from pixelflow.training.guard import StepGuard
from pixelflow.training.state import TrainingState


class Meter:
    """Measures speed between two logs.

    Args:
        costs: Images, tokens and FLOPs of one step of this process.
        device: Device of this process.
        processes: Number of processes that do the same.
        rate: Floating-point operations per second that the device reaches in matrix products; None if not measured.
    """

    def __init__(
        self, costs: StepCosts, *, device: torch.device, processes: int = 1, rate: float | None = None
    ) -> None:
        self.costs, self.device, self.processes, self.rate = costs, device, processes, rate
        self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of the block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def step(self) -> None:
        """Counts one step."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Returns the rates since the last call, for which the device must be idle. The first include warming up."""
        now = time.perf_counter()
        seconds, steps, costs = now - self._start, self._steps, self.costs
        rates = {
            "images_per_second": steps * costs.images * self.processes / seconds,
            "tokens_per_second": steps * costs.tokens * self.processes / seconds,
            "data_wait_share": self._waited / seconds,
            "peak_memory_gib": peak_memory(self.device) / 2**30,
        }
        if costs.flops:
            rates["tflops_per_device"] = steps * costs.flops / seconds / 1e12
            if self.rate is not None:
                rates["mfu"] = steps * costs.flops / seconds / self.rate
        self._start, self._steps, self._waited = now, 0, 0.0
        return rates


def peak_memory(device: torch.device) -> float:
    """Returns the peak memory in bytes: of the allocator of a GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


def step_metrics(value: ObjectiveValue, guard: StepGuard, state: TrainingState, *, num_stages: int) -> dict[str, float]:
    """Returns losses, gradient norm, learning rate and skipped steps of the last step. All processes must call it.

    Args:
        value: The objective on this process's share of the step.
        guard: The verdict on the step, settled.
        state: Optimizer and objective of the training.
        num_stages: Number of stages of the cascade.
    """
    value = _of_all_processes(value, state, num_stages)
    loss, grad_norm = guard.last
    metrics = {"loss": loss, "grad_norm": grad_norm, "lr": state.optimizer.param_groups[0]["lr"]}
    metrics["skipped_steps"] = guard.skipped
    metrics |= {f"loss/{name}": term.item() for name, term in value.terms.items()}
    if state.objective.adaptive is not None:
        metrics["adaptive_weight"] = state.objective.adaptive.value.item()
    return metrics | {f"loss/stage_{stage}": loss.item() for stage, loss in value.stages.items()}


def loss_note(metrics: Mapping[str, float], num_stages: int) -> str:
    """Returns the loss and that of each stage as text; a stage without images in this step has none.

    Examples:
        >>> loss_note({"loss": 0.4, "loss/stage_1": 0.4}, num_stages=2), loss_note({"loss": 0.4}, num_stages=1)
        ('loss 0.4000 (stages - 0.4000)', 'loss 0.4000')
    """
    if num_stages == 1:
        return f"loss {metrics['loss']:.4f}"
    losses = [metrics.get(f"loss/stage_{stage}") for stage in range(num_stages)]
    stages = " ".join("-" if loss is None else f"{loss:.4f}" for loss in losses)
    return f"loss {metrics['loss']:.4f} (stages {stages})"


def _of_all_processes(value: ObjectiveValue, state: TrainingState, num_stages: int) -> ObjectiveValue:
    world, device = state.network.world, state.network.device
    if world.size == 1:
        return value
    keys = [(stage, term) for stage in range(num_stages) for term in value.weights]
    zero = torch.zeros((), device=device)
    sums = torch.stack([value.sums.get(key, zero).float() for key in keys])
    counts = torch.tensor([float(value.counts.get(key, 0)) for key in keys], device=device)
    world.add(sums, counts)
    there = {key: (sums[i], int(n)) for i, (key, n) in enumerate(zip(keys, counts.tolist(), strict=True)) if n}
    return replace(value, sums={k: v for k, (v, _) in there.items()}, counts={k: n for k, (_, n) in there.items()})
