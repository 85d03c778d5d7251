"""job=benchmark job.estimate=true: the cost of all trainings and evaluations of a recipe, counted before they start.

A training that several settings share is counted once, as is an evaluation of the same weights in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pixelflow.benchmarks.estimate import count_training, estimate
from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.config.build import Config, build_model, sampler_settings
from pixelflow.config.composing import sweep_settings
from pixelflow.config.job import Job
from pixelflow.config.schema import build
from pixelflow.config.training_parts import bare_backbone
from pixelflow.files import write_json
from pixelflow.metrics.features import FrozenFeatures
from pixelflow.metrics.suite import WITH_FEATURES
from pixelflow.nn.flops import count_flops, drop_content
from pixelflow.runs.identity import config_hash, evaluation_hash, own_evaluation, training_overrides
from pixelflow.sampling.counts import SamplingCounts, sampling_costs
from pixelflow.terminal import say
from pixelflow.training.fitting import without_memory

COUNTED = ("batch_size", "accumulate", "precision", "activation_checkpointing")
"""The keys of `trainer` on which the counts of a step depend."""


def run(config: Config, options: BenchmarkOptions, overrides: list[str], job: Job) -> None:
    """Prints the table, and writes it to `<output>/estimate_<experiment>.json` if `output` is given."""
    result = estimate_table(sweep_settings(config, overrides, job), options)
    say(to_text(result))
    if options.output is not None:
        path = Path(options.output) / f"estimate_{config['experiment']}.json"
        write_json(path, result)
        say(f"written: {path}")


@dataclass
class _Counted:
    """Counts each configuration once."""

    known: dict[str, Any] = field(default_factory=dict)

    def once(self, count: Callable[[], Any], *nodes: Any) -> Any:
        """Returns `count()`, or its result for the same values."""
        key = repr(nodes)
        if key not in self.known:
            self.known[key] = count()
        return self.known[key]

    def training(self, config: Config, images: int) -> Any:
        """Returns the counts of a step; see `count_training`."""
        trainer = [config["trainer"][key] for key in COUNTED]
        parts = [config[key] for key in ("backbone", "cascade", "prediction", "timesteps", "objective")]
        data = [config["data"][key] for key in ("channels", "image_size")]
        return self.once(lambda: count_training(config, images), "training", parts, trainer, data, images)

    def sampling(self, config: Config, options: BenchmarkOptions) -> Any:
        """Returns the counts of one sampled image, and the operations that measuring it takes."""
        parts = [config[key] for key in ("backbone", "cascade", "solver", "guidance", "metrics")]
        data = [config["data"][key] for key in ("channels", "image_size")]
        every = config["sampler"]["cache_every"]
        return self.once(lambda: _sampling(config, options), "sampling", parts, data, every)


def estimate_table(settings: Sequence[tuple[list[str], Config]], options: BenchmarkOptions) -> dict[str, Any]:
    """Estimates the trainings and evaluations of some settings.

    Args:
        settings: The overrides and the resolved config of each setting. One with a checkpoint trains nothing.
        options: Options of the job.

    Returns:
        The table as plain data: `trainings`, `evaluations`, `sums` and `assumptions`.
    """
    counted = _Counted()
    trainings: dict[str, list[int]] = {}
    evaluations: dict[tuple[str, str], list[int]] = {}
    for n, (_, config) in enumerate(settings):
        weights = config["checkpoint"] or config_hash(config)
        trainings.setdefault(weights, []).append(n)
        evaluation = evaluation_hash(config) if config["checkpoint"] else own_evaluation(config)
        evaluations.setdefault((weights, evaluation), []).append(n)
    rows = []
    of_training = [(training_overrides(given), config) for given, config in settings]
    for members in trainings.values():
        config = settings[members[0]][1]
        if config["checkpoint"] is None:
            rows.append({"label": _label(of_training, members), **estimate(config, options, counted.training)})
    kinds: dict[str, list[list[int]]] = {}
    for members in evaluations.values():
        config = settings[members[0]][1]
        costs, measuring = counted.sampling(config, options)
        kinds.setdefault(repr((evaluation_hash(config), costs, measuring)), []).append(members)
    seen = [_evaluation(settings, groups, counted, options) for groups in kinds.values()]
    hours = {
        "training": sum(row["device_hours"] for row in rows),
        "evaluation": sum(row["device_hours"] for row in seen),
    }
    total = sum(hours.values())
    devices = options.devices or (rows[0]["devices"] if rows else 1)
    return {
        "settings": len(settings),
        "trainings": rows,
        "evaluations": seen,
        "sums": {
            "training_device_hours": hours["training"],
            "evaluation_device_hours": hours["evaluation"],
            "device_hours": total,
            "devices": devices,
            "days": total / devices / 24,
        },
        "assumptions": _assumptions(options, any(row["adaptive"] for row in seen)),
    }


def _sampling(config: Config, options: BenchmarkOptions) -> tuple[SamplingCounts, int]:
    backbone = bare_backbone(config)
    model = build_model(config, backbone)
    costs = sampling_costs(
        backbone, model.cascade, model.solver, model.guidance, channels=config["data"]["channels"],
        adaptive_evaluations=options.adaptive_evaluations, cache_every=sampler_settings(config).cache_every,
    )  # fmt: skip
    return costs, measuring_flops(config)


def measuring_flops(config: Config) -> int:
    """Counts the operations by which the feature networks of the metrics measure one image.

    An extractor without an attribute `model`, or with weights that are not of `FrozenFeatures`, is not counted.
    """
    also = [name for name in config["metrics"]["also"] if name not in WITH_FEATURES]
    total = 0
    for key in ("metrics.features", *(f"metrics.extractors.{name}" for name in also)):
        extractor = build(config, key)
        if isinstance(extractor, FrozenFeatures):
            extractor.file = None
            with without_memory():
                extractor.load(Path(), torch.device("meta"))
            extractor.device = torch.device("cpu")
        network = getattr(extractor, "model", None)
        if not isinstance(network, nn.Module):
            continue
        side, channels = config["data"]["image_size"], config["data"]["channels"]
        with FakeTensorMode(allow_non_fake_inputs=True):
            drop_content(network)
            images = torch.empty(1, channels, side, side, dtype=torch.uint8)
            total += count_flops(lambda extractor=extractor, images=images: extractor(images))  # type: ignore[misc]
    return total


def _evaluation(
    settings: Sequence[tuple[list[str], Config]],
    groups: list[list[int]],
    counted: _Counted,
    options: BenchmarkOptions,
) -> dict[str, Any]:
    config = settings[groups[0][0]][1]
    costs, measuring = counted.sampling(config, options)
    images = config["sampler"]["num_samples"]
    flops = (costs.flops + measuring) * images * len(groups)
    return {
        "label": _label(settings, [n for members in groups for n in members]),
        "evaluations": len(groups),
        "images": images,
        "passes_per_image": costs.passes,
        "passes_by_stage": [stage.passes for stage in costs.stages],
        "adaptive": bool(build(config, "solver").adaptive),
        "tflop_per_image": costs.flops / 1e12,
        "tflop_per_image_of_measuring": measuring / 1e12,
        "device_hours": flops / (options.tflops * 1e12 * options.utilisation) / 3600,
    }


def _label(settings: Sequence[tuple[list[str], Config]], members: list[int]) -> str:
    """Returns the values that the settings `members` share and other settings do not: "kickoff=4 seed=0"."""
    values = [dict(override.lstrip("+").partition("=")[::2] for override in given) for given, _ in settings]
    words = []
    for key in dict.fromkeys(key for given in values for key in given):
        own = {values[n].get(key) for n in members}
        if len(own) == 1 and len({given.get(key) for given in values}) > 1 and (value := own.pop()) is not None:
            name = key.partition("@")[0].replace("/", ".").rpartition(".")[2]
            words.append(f"{name}={value}")
    return " ".join(words) or "all"


def _assumptions(options: BenchmarkOptions, adaptive: bool) -> list[str]:
    lines = [
        f"Each device reaches {100 * options.utilisation:g} % of {options.tflops:g} TFLOP/s "
        "(job.utilisation, job.tflops), in sampling and measuring as well.",
        "A backward pass of the backbone takes twice the operations of its forward pass. What activation checkpointing "
        "repeats, and the measurements of an adaptive weight, are not counted.",
        "Frozen networks are computed on the share of images that passes the gates of their terms. Their activations "
        "are counted as eager.",
        "Reading data, statistics of the reference and the arithmetic of the metrics are not counted.",
    ]
    if adaptive:
        lines.append(
            f"An adaptive solver takes {options.adaptive_evaluations} evaluations in each stage "
            "(job.adaptive_evaluations); its number depends on the weights."
        )
    return lines


def to_text(result: dict[str, Any]) -> str:
    """Formats the table: one line for each training and each kind of evaluation, the sums and the assumptions.

    For a single training all its numbers come first.
    """
    parts = []
    if len(result["trainings"]) == 1:
        (only,) = result["trainings"]
        parts.append("\n".join(f"{name:28} {_number(value)}" for name, value in only.items() if name != "label"))
    if result["trainings"]:
        head = ["training", "parameters", "TFLOP/image", "steps", "batch", "device hours", "days", "GiB/device", "fits"]
        keys = ["label", "parameters", "tflop_per_image", "steps", "images_per_step", "device_hours", "days",
                "total_gib_per_device", "fits"]  # fmt: skip
        parts.append(_columns(head, [[_number(row[key]) for key in keys] for row in result["trainings"]]))
    head = ["evaluation", "number", "images", "passes/image", "TFLOP/image", "measuring", "device hours"]
    keys = ["label", "evaluations", "images", "passes_per_image", "tflop_per_image", "tflop_per_image_of_measuring",
            "device_hours"]  # fmt: skip
    parts.append(_columns(head, [[_number(row[key]) for key in keys] for row in result["evaluations"]]))
    sums = result["sums"]
    training, evaluation, total, days = (
        _number(sums[key]) for key in ("training_device_hours", "evaluation_device_hours", "device_hours", "days")
    )
    parts.append(
        f"{_plural(result['settings'], 'setting')}: {training} device hours of training + {evaluation} of evaluation "
        f"= {total}; {days} days on {_plural(sums['devices'], 'device')}"
    )
    return "\n\n".join([*parts, "\n".join(result["assumptions"])])


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        digits = 3 if value == 0 or not math.isfinite(value) else max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}" if digits < 8 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _columns(head: list[str], rows: list[list[str]]) -> str:
    """Aligns the first column to the left, and the others to the right."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )
