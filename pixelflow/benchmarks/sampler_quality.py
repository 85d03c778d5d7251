"""Compares sampler settings on one checkpoint, with the same noise for all.

For each setting it reports the error against a fine solution of the same flow, the distance to the reference images,
and the cost.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelflow.conf_dir import option_files, read_option
from pixelflow.config.build import Config, load_model, pick_device, sample_set, sampler_settings
from pixelflow.config.job import Job
from pixelflow.config.schema import build
from pixelflow.config.search_path import config_folders
from pixelflow.config.suites import build_evaluator
from pixelflow.config.validate import validate
from pixelflow.errors import UserError
from pixelflow.files import write_json, write_text
from pixelflow.metrics.catalogue import main_distance
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.model import Model
from pixelflow.reporting.escaping import markdown_code, markdown_text
from pixelflow.reporting.pareto import Point, quality_chart, quality_table
from pixelflow.runs.provenance import versions
from pixelflow.sampling.sampler import Sampler, to_uint8
from pixelflow.sampling.settings import SampleSet
from pixelflow.solvers import AdamsBashforth
from pixelflow.terminal import say
from pixelflow.types import Condition

logger = logging.getLogger(__name__)

FINE_STEPS = 100
"""Steps per stage of the solution, of order 4, that the error is measured against."""
MEASURED_TOGETHER = 500


def compare_settings(
    config: Config, job: Job, *, settings: list[dict[str, Any]], output: str, overrides: list[str]
) -> None:
    """Compares settings, writes `<output>/quality.{json,md,png}` and prints the table.

    Args:
        config: A resolved config with a checkpoint.
        job: Declaration of the job that the config of each setting must be valid for.
        settings: Solver, and arguments of the solver or the sampler, of each setting; see `with_setting`.
        output: Folder of the files.
        overrides: Overrides of the command, for the record.

    Raises:
        UserError: A setting is not valid.
    """
    configs = [with_setting(config, setting) for setting in settings]
    for each in configs:
        validate(each, job)
    images = sample_set(config)
    model = load_model(config, config["checkpoint"], pick_device(config["trainer"]["device"]))
    fine = AdamsBashforth(
        num_steps=FINE_STEPS, num_stages=model.num_stages, order=4, startup="runge_kutta", grid="uniform"
    )
    exact = draw(model.sampler(solver=fine, settings=sampler_settings(config)), images, model.settings.largest_batch)
    measure, points = build_evaluator(config, model.device), []
    for each, setting in zip(configs, settings, strict=True):
        points.append(_point(each, setting, model, images, exact.x, measure))
        logger.info("%s: %.4g forward passes, error %.3g", points[-1].label, points[-1].cost, points[-1].quality)
    _write(config, Path(output), overrides, points, model.recipe.step)


def with_setting(config: Config, setting: dict[str, Any]) -> dict[str, Any]:
    """Returns the config with another solver.

    Args:
        config: A resolved config.
        setting: `solver`, the name of an option, and arguments of that solver or, like `cache_every`, of the sampler.

    Raises:
        UserError: There is no such solver.
    """
    folders = config_folders()
    if setting.get("solver") not in (options := option_files("solver", folders)):
        raise UserError(f"job.settings: {setting} needs a solver, one of {', '.join(options)}")
    values = {"cascade.num_stages": config["cascade"]["num_stages"]}
    solver = read_option("solver", setting["solver"], values, folders=folders)
    sampler = dict(config["sampler"])
    for key, value in setting.items():
        if key != "solver":
            (sampler if key in sampler else solver)[key] = value
    return {**config, "solver": solver, "sampler": sampler}


@dataclass(frozen=True)
class Drawn:
    """Images (N, C, R, R) on the CPU, not clamped, with forward passes and seconds per image."""

    x: Tensor
    passes: float
    seconds: float


def draw(sampler: Sampler, images: SampleSet, batch_size: int) -> Drawn:
    """Draws a set of images and returns them as the solver leaves them."""
    parts, passes, start = [], 0.0, time.perf_counter()
    for ids in torch.arange(images.num_samples).split(batch_size):
        noise = sampler.keyed_noise(ids.tolist(), images.seed)
        samples = sampler.sample(Condition(images.labels_of(ids.tolist())), noise)
        parts.append(samples.x.cpu())
        passes += samples.passes * len(ids)
    count = images.num_samples
    return Drawn(torch.cat(parts), passes / count, (time.perf_counter() - start) / count)


def _point(
    config: Config, setting: dict[str, Any], model: Model, images: SampleSet, exact: Tensor, measure: Evaluator
) -> Point:
    settings = sampler_settings(config)
    sampler = replace(model, solver=build(config, "solver")).sampler(settings=settings)
    drawn = draw(sampler, images, settings.largest_batch)
    evaluator = Evaluator(features=measure.features, reference=measure.reference)
    for pixels in to_uint8(drawn.x).split(MEASURED_TOGETHER):
        evaluator.update(pixels)
    distance = main_distance(evaluator.compute())
    error = ((drawn.x - exact).square().mean().sqrt() / exact.square().mean().sqrt()).item()
    label = " ".join([setting["solver"], *(f"{key}={value}" for key, value in setting.items() if key != "solver")])
    series = setting["solver"] + (" cached" if setting.get("cache_every", 1) > 1 else "")
    return Point(label, series, drawn.passes, error, {"fd": distance, "seconds per image": drawn.seconds})


def _write(config: Config, folder: Path, overrides: list[str], points: list[Point], step: int) -> None:
    cost, quality = "forward passes per image", "relative error"
    count = config["sampler"]["num_samples"]
    table = quality_table(points, cost=cost, quality=quality)
    # The record is published, so it must not show paths of this machine.
    shown = [o for o in overrides if not o.startswith(("checkpoint=", "runs_dir=", "job.output="))]
    command = markdown_code(f"python run.py {shlex.join(shown)} checkpoint=...")
    head = (
        f"# Steps against quality\n\n{command}: step {step}, {count} images, guidance "
        f"{config['guidance']['_target_'].rpartition('.')[2]}. The error is relative to {FINE_STEPS} steps of "
        "Adams-Bashforth 4 per stage from the same noise (root mean square); fd is the distance to the "
        f"reference images ({markdown_text(str(config['metrics']['reference']))}). Seconds count where the load "
        f"average ({os.getloadavg()[1]:.1f}, on {os.cpu_count()} cores) is that of one job. The distances are "
        f"of one seed: {count} images do not show which setting has the smaller one.\n\n"
    )
    write_text(folder / "quality.md", head + table)
    rows = [{"label": p.label, "forward_passes": p.cost, "error": p.quality, **p.more} for p in points]
    record = {"settings": rows, "step": step, "num_samples": count, "versions": versions()}
    write_json(folder / "quality.json", record)
    quality_chart(points, folder / "quality.png", cost=cost, quality="relative error of the state", lines=True)
    say(f"{table}\nwritten: {folder / 'quality.md'}, .json and .png")
