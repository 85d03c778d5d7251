"""job=benchmark job.part=training: compares training steps with a plain reference in one run.

The reference implements the paper's recipe without optimisation: noise, pyramid and network image by image, each at its
stage, in eager mode, and optimizer and average parameter by parameter. A second reference, by_stage, passes the images
of a stage through the network together. All use the same weights, batch, stages and times, and compute forward,
backward, clipping, AdamW and average. Steps alternate, so that all are measured under the same load of the machine; on
a CPU the time of the process is measured.

The benchmark also compares noise and pyramids that are made in the loader, image by image as in the release, with ours,
which are made by batch.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.config.build import Config, bare_backbone
from pixelflow.config.training_parts import assemble_trainer
from pixelflow.nn.attention import HeadNormAttention, SelfAttention
from pixelflow.runs.provenance import versions
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.costs import device_rate, step_costs
from pixelflow.training.draw import draw_flow_samples, draw_stages, draw_times
from pixelflow.training.meter import peak_memory
from pixelflow.training.trainer import Trainer
from pixelflow.types import Batch, Condition


def training(config: Config, options: BenchmarkOptions, device: torch.device) -> dict[str, Any]:
    """Measures steps of the configured training and of the references; returns seconds, rates and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = assemble_trainer(config, CheckpointStore(Path(folder)))
    reference, by_stage = (Reference(trainer, lr=config["optimizer"]["lr"], by_stage=by) for by in (False, True))
    batch = next(iter(trainer.loader))
    kinds: dict[str, Callable[[], Any]] = {
        "ours": lambda: trainer.train_step(batch),
        "reference": lambda: reference.step(batch),
        "by_stage": lambda: by_stage.step(batch),
        "noise_by_batch": lambda: _ours(trainer, batch),
        "noise_in_loader": lambda: in_loader(trainer, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat in range(options.repeats + 1):
        for name, work in kinds.items():
            elapsed = timed(work, device)
            if repeat:  # the first warms up
                seconds[name].append(elapsed)
    least = {name: min(values) for name, values in seconds.items()}
    costs = step_costs(
        bare_backbone(config), trainer.flow.cascade, channels=config["data"]["channels"], images=len(batch)
    )
    rate = device_rate(trainer.state.backbone, precision=trainer.settings.precision, device=device, repeats=10)
    return {
        "summary": {
            "images_per_second": len(batch) / least["ours"],
            "reference_images_per_second": len(batch) / least["reference"],
            "ratio": least["reference"] / least["ours"],
            "ratio_by_stage": least["by_stage"] / least["ours"],
            "utilisation": costs.flops / least["ours"] / rate,
            "loader_noise_seconds_per_image": least["noise_in_loader"] / len(batch),
            "our_noise_seconds_per_image": least["noise_by_batch"] / len(batch),
        },
        "seconds_per_step": seconds,
        "clock": "process" if device.type == "cpu" else "wall",
        "tflop_per_image": costs.flops / len(batch) / 1e12,
        "matrix_tflops": rate / 1e12,
        "peak_memory_gib": peak_memory(device) / 2**30,
        "attention": next((m.kernel for m in trainer.state.backbone.modules() if isinstance(m, Attentions)), None),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[1],
        "settings": {key: config[key] for key in ("backbone", "cascade", "data", "trainer", "optimizer", "ema")},
        "versions": versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


Attentions = SelfAttention | HeadNormAttention


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Returns the seconds of `work()`: of the process on a CPU, of the clock on a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Reference:
    """A plain trainer of the same model, with one forward pass for each image, or for the images of each stage."""

    def __init__(self, trainer: Trainer, *, lr: float, by_stage: bool) -> None:
        self.trainer, self.by_stage = trainer, by_stage
        self.model = copy.deepcopy(trainer.state.backbone)
        self.average = copy.deepcopy(trainer.state.backbone).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.0, foreach=False)

    def step(self, batch: Batch) -> None:
        """Takes one optimizer step and updates the average."""
        trainer, device = self.trainer, self.trainer.device
        batch = batch.to(device)
        stages, tau = _drawn(trainer, batch)
        total = torch.zeros((), device=device)
        groups = [[i] for i in range(len(batch))]
        if self.by_stage:
            groups = [(stages == stage).nonzero()[:, 0].tolist() for stage in stages.unique()]
        for rows in groups:
            stage = int(stages[rows[0]])
            made = [_noised(trainer, batch.x[i], stage, float(tau[i])) for i in rows]
            x_t, target = (torch.stack(parts) for parts in zip(*made, strict=True))
            timestep = trainer.flow.cascade.timestep(stage, tau[rows]).float().to(device)
            condition = Condition(batch.condition.class_label[rows])
            with torch.autocast(device.type, torch.bfloat16, enabled=trainer.settings.precision == "bf16"):
                output = self.model(x_t, timestep, condition).output
            for image, wanted in zip(output.float(), target, strict=True):
                total = total + (image - wanted).square().mean() / len(batch)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.mul_(0.9999).add_(value, alpha=0.0001)


def _drawn(trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor]:
    flow, random = trainer.flow, trainer.optimizer_step.random
    stages = draw_stages(num_stages=flow.cascade.num_stages, batch_size=len(batch), random=random, step=trainer.step)
    tau = draw_times(batch.sample_id, stages, cascade=flow.cascade, timesteps=flow.timesteps, random=random)
    return stages, tau


def _noised(trainer: Trainer, image: Tensor, stage: int, tau: float) -> tuple[Tensor, Tensor]:
    """x_t and velocity of one image (C, R, R), by the paper's equations 2 to 5, with general resizing."""
    path, side = trainer.flow.cascade.path(stage), trainer.flow.cascade.resolution(stage)
    x = image[None]
    while x.shape[-1] > side:
        x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    noise = torch.randn_like(x)
    end = path.end * x + (1 - path.end) * noise
    start = (1 - path.start) * noise
    if path.start > 0:
        coarse = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        start = start + path.start * F.interpolate(coarse, scale_factor=2, mode="nearest")
    return (tau * end + (1 - tau) * start)[0], (end - start)[0]


def _ours(trainer: Trainer, batch: Batch) -> Any:
    """Makes noise, pyramids and inputs of a batch as a training step does."""
    stages, tau = _drawn(trainer, batch)
    samples = draw_flow_samples(
        batch.to(trainer.device), stages, tau, cascade=trainer.flow.cascade, random=trainer.optimizer_step.random
    )
    return [(sample.x_t, sample.velocity) for sample in samples]


def in_loader(trainer: Trainer, batch: Batch) -> Any:
    """Makes the same on the host, image by image, and collates it by stage."""
    stages, tau = _drawn(trainer, batch)
    made: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for i, stage in enumerate(stages.tolist()):
        made.setdefault(stage, []).append(_noised(trainer, batch.x[i].cpu(), stage, float(tau[i])))
    return {stage: [torch.stack(parts) for parts in zip(*items, strict=True)] for stage, items in made.items()}
