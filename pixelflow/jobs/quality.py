"""job=quality: sampler settings side by side on one checkpoint, the same noise for all.

For each: the error against a fine solution of the same flow, the distance to the reference images, and the cost.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor

from pixelflow.config.build import (
    Config,
    build_model,
    build_sampler,
    load_sampler,
    pick_device,
    speed_up,
)
from pixelflow.config.resolve import CONF
from pixelflow.config.suites import build_evaluator
from pixelflow.config.validate import validate
from pixelflow.files import write_json, write_text
from pixelflow.metrics.catalogue import main_distance
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.reporting.pareto import Point, quality_chart, quality_table
from pixelflow.runs.provenance import versions
from pixelflow.sampling.produce import labels_of, parse_classes
from pixelflow.sampling.sampler import Sampler, to_uint8
from pixelflow.solvers import AdamsBashforth
from pixelflow.types import Condition

logger = logging.getLogger(__name__)

FINE_STEPS = 100
"""Steps per stage of the solution that counts as exact: order 4."""


def run(config: Config, overrides: list[str]) -> None:
    """Writes `<output>/quality.{json,md,png}` and prints the table."""
    settings = [with_setting(config, setting) for setting in config["job"]["settings"]]
    for each in settings:
        validate(each)
    device = pick_device(config["trainer"]["device"])
    reference, step = load_sampler(config, config["checkpoint"], device)
    num_stages = reference.cascade.num_stages
    reference.solver = AdamsBashforth(
        num_steps=FINE_STEPS, num_stages=num_stages, order=4, startup="runge_kutta", grid="uniform"
    )
    exact, _, _ = states(config, reference)
    measure, points = build_evaluator(config, device), []
    for each, setting in zip(settings, config["job"]["settings"], strict=True):
        points.append(_point(each, setting, reference, exact, measure))
        logger.info("%s: %.4g forward passes, error %.3g", points[-1].label, points[-1].cost, points[-1].quality)
    _write(config, overrides, points, step)


def with_setting(config: Config, setting: dict[str, Any]) -> dict[str, Any]:
    """The config with another solver. setting: {solver: <option>, ...}: its other keys are the solver's, or, like
    cache_every, the sampler's. Raises ValueError for a solver that does not exist.
    """
    path = CONF / "solver" / f"{setting.get('solver')}.yaml"
    if not path.exists():
        options = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ValueError(f"job.settings: {setting} needs a solver, one of {options}")
    solver = yaml.safe_load(path.read_text(encoding="utf-8"))
    sampler = dict(config["sampler"])
    for key, value in setting.items():
        if key != "solver":
            (sampler if key in sampler else solver)[key] = value
    changed = OmegaConf.create({**config, "solver": solver, "sampler": sampler})
    return OmegaConf.to_container(changed, resolve=True)  # type: ignore[return-value]


def states(config: Config, sampler: Sampler) -> tuple[Tensor, float, float]:
    """(N, C, R, R) on the CPU, not clamped; forward passes per image; seconds per image."""
    settings = config["sampler"]
    count, batch = settings["num_samples"], settings["batch_size"]
    labels = labels_of(parse_classes(settings["classes"], config["data"]["num_classes"]), count)
    parts, passes, start = [], 0.0, time.perf_counter()
    for ids in torch.arange(count).split(max(batch) if isinstance(batch, list) else batch):
        samples = sampler.sample(Condition(labels[ids]), sampler.keyed_noise(ids.tolist(), settings["seed"]))
        parts.append(samples.x.cpu())
        passes += samples.passes * len(ids)
    return torch.cat(parts), passes / count, (time.perf_counter() - start) / count


def _point(config: Config, setting: dict[str, Any], reference: Sampler, exact: Tensor, measure: Evaluator) -> Point:
    model, backbone, device = build_model(config), reference.backbone, reference.device
    assert isinstance(backbone, torch.nn.Module)
    sampler = build_sampler(config, model, speed_up(config, backbone, device), device)
    x, passes, seconds = states(config, sampler)
    evaluator = Evaluator(features=measure.features, reference=measure.reference)
    for images in to_uint8(x).split(500):
        evaluator.update(images)
    distance = main_distance(evaluator.compute())
    error = ((x - exact).square().mean().sqrt() / exact.square().mean().sqrt()).item()
    label = " ".join([setting["solver"], *(f"{key}={value}" for key, value in setting.items() if key != "solver")])
    series = setting["solver"] + (" cached" if setting.get("cache_every", 1) > 1 else "")
    return Point(label, series, passes, error, {"fd": distance, "seconds per image": seconds})


def _write(config: Config, overrides: list[str], points: list[Point], step: int) -> None:
    folder, cost, quality = Path(config["job"]["output"]), "forward passes per image", "relative error"
    count = config["sampler"]["num_samples"]
    table = quality_table(points, cost=cost, quality=quality)
    # Paths of a machine are nobody else's business.
    told = [o for o in overrides if not o.startswith(("checkpoint=", "runs_dir=", "job.output="))]
    head = (
        f"# Steps against quality\n\n`python run.py {shlex.join(told)} checkpoint=...`: step {step}, {count} images, "
        f"guidance {config['guidance']['_target_'].rpartition('.')[2]}. The error is relative to {FINE_STEPS} steps of "
        "Adams-Bashforth 4 per stage from the same noise (root mean square); fd is the distance to the "
        f"reference images ({config['metrics']['reference']}). Seconds count where the load average "
        f"({os.getloadavg()[1]:.1f}, on {os.cpu_count()} cores) is that of one job.\n\n"
    )
    write_text(folder / "quality.md", head + table)
    rows = [{"label": p.label, "forward_passes": p.cost, "error": p.quality, **p.more} for p in points]
    record = {"settings": rows, "step": step, "num_samples": count, "versions": versions()}
    write_json(folder / "quality.json", record)
    quality_chart(points, folder / "quality.png", cost=cost, quality="relative error of the state", lines=True)
    print(f"{table}\nwritten: {folder / 'quality.md'}, .json and .png")
