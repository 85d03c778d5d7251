"""job=benchmark_objective: compares the cost of a training step with the sum of its necessary parts.

The necessary parts are the backbone with flow matching alone, each frozen network forward on the clean images that a
term needs and forward and backward on the predicted ones, and the trained parts. Seconds are medians of alternating
runs; on a CPU the time of the process is measured. FLOPs are exact. Frozen networks with `file: null` have random
weights, which cost the same. With `objective.pad_to` the whole step also computes the filling, unlike the parts.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pixelflow.benchmarks.options import ObjectiveBenchmarkOptions
from pixelflow.benchmarks.training_step import timed
from pixelflow.config.build import Config, require_assets
from pixelflow.config.training_parts import assemble_trainer
from pixelflow.losses import FlowMatching, Lpips, Objective, Repa
from pixelflow.terminal import say
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.draw import draw_stages, draw_times
from pixelflow.training.trainer import Trainer
from pixelflow.types import Batch

Part = Callable[[], None]


def run(config: Config, options: ObjectiveBenchmarkOptions) -> None:
    """Prints time and FLOPs of each part, of their sum and of the whole step, and the ratio of the two."""
    require_assets(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = assemble_trainer(config, CheckpointStore(Path(folder)))
    batch = next(iter(trainer.loader)).to(trainer.device)
    # Fresh layers that start at zero give no gradient to what lies before them.
    for parameter in trainer.state.backbone.parameters():
        parameter.data.normal_(std=0.02)
    steps = {"whole": _whole(trainer, batch), **_parts(trainer, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            elapsed = timed(step, trainer.device)
            if repeat:  # the first warms up
                seconds[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    whole = medians.pop("whole")
    flops = {name: _flops(step) for name, step in steps.items()}
    whole_flops = flops.pop("whole")
    rows = {name: (medians[name], flops[name]) for name in medians}
    rows["sum of the parts"] = sum(medians.values()), sum(flops.values())
    rows["whole step"] = whole, whole_flops
    for name, (value, count) in rows.items():
        say(f"{name:32} {value:9.4f} s {count:10.4g} FLOPs")
    say(f"whole / parts: {whole / sum(medians.values()):.3f} in time, {whole_flops / sum(flops.values()):.3f} in FLOPs")


def _flops(step: Part) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _whole(trainer: Trainer, batch: Batch) -> Part:
    return lambda: _step(trainer, batch)


def _step(trainer: Trainer, batch: Batch, objective: Objective | None = None) -> None:
    tau, stages = _drawn(trainer, batch)
    trainer.optimizer_step.forward(batch, stages, tau, tau, objective=objective).loss.backward()
    trainer.state.optimizer.zero_grad(set_to_none=True)


def _drawn(trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor]:
    flow, random = trainer.flow, trainer.optimizer_step.random
    stages = draw_stages(num_stages=flow.cascade.num_stages, batch_size=len(batch), random=random, step=0)
    tau = draw_times(batch.sample_id, stages, cascade=flow.cascade, timesteps=flow.timesteps, random=random)
    return tau, stages


def _parts(trainer: Trainer, batch: Batch) -> dict[str, Part]:
    objective = trainer.state.objective
    backbone: Any = trainer.state.backbone
    alone = Objective(terms={"flow_matching": FlowMatching()}).to(trainer.device)
    parts: dict[str, Part] = {"backbone, flow matching alone": lambda: _step(trainer, batch, alone)}
    tau, stages = _drawn(trainer, batch)
    images = [trainer.flow.cascade.image_at(batch.x[stages == s], s) for s in stages.unique().tolist()]
    taus = [tau[stages == s] for s in stages.unique().tolist()]

    def passing(names: list[str]) -> list[Tensor]:
        """The clean images that one of the terms wants, by stage."""
        gates = [
            torch.stack([objective.terms[name].gate(t, tau) for name in names]).any(dim=0).to(batch.x.device)
            for t in taus
        ]
        return [x[gate] for x, gate in zip(images, gates, strict=True) if gate.any()]

    for name, encoder in objective.encoders.items():
        users = [term for term, loss in objective.terms.items() if loss.encoder == name]
        both = [term for term in users if objective.terms[term].encodes_prediction]
        parts[f"{name}, clean images"] = _forward(encoder, passing(users))
        if both:
            parts[f"{name}, predicted images"] = _backward(encoder, passing(both))
    for term, loss in objective.terms.items():
        if isinstance(loss, Lpips):
            parts[term] = _backward(_to_itself(loss.distance), passing([term]))
        if isinstance(loss, Repa):
            assert loss.encoder is not None
            # Tokens of the backbone are resized to the encoder's grid before they are projected.
            length = len(objective.encoders[loss.encoder](images[0][:1])[0])
            inputs = torch.randn(len(batch), length, backbone.width, device=trainer.device)
            parts[f"{term}, projection"] = _backward(loss.projection, [inputs])
    return parts


def _to_itself(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: distance(x, x.detach())


def _forward(network: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Part:
    @torch.no_grad()
    def step() -> None:
        for x in inputs:
            network(x)

    return step


def _backward(network: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Part:
    def step() -> None:
        for x in inputs:
            network(x.clone().requires_grad_()).sum().backward()

    return step
