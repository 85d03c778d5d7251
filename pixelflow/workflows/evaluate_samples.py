"""Measures a checkpoint or given images, and records how they were computed.

The samples of a checkpoint are measured as they are drawn, and written only with job.images=true. Started by torchrun
or by srun with several tasks, the processes divide the work; the same command again continues an unfinished evaluation.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelflow.config.build import (
    Config,
    forward_costs,
    load_model,
    pick_device,
    sample_set,
    sampler_settings,
    trainer_settings,
)
from pixelflow.config.suites import build_suite, require_metrics
from pixelflow.data.image_files import ImageFiles, open_images
from pixelflow.files import write_json
from pixelflow.metrics.accumulate import Accumulator, Parts, accumulate, open_parts, rank_0_first
from pixelflow.metrics.catalogue import main_distance
from pixelflow.metrics.suite import Suite
from pixelflow.processes import World, processes, shared_errors, world_of
from pixelflow.runs.context import mirror_evaluation
from pixelflow.runs.identity import evaluation_config, evaluation_file, evaluation_hash
from pixelflow.runs.places import home_of
from pixelflow.runs.provenance import versions
from pixelflow.sampling.produce import Made
from pixelflow.sampling.shared import Work, drawing
from pixelflow.signals import stop_on_signals
from pixelflow.terminal import say
from pixelflow.workflows.make_samples import results_of, sample, sampling_record

logger = logging.getLogger(__name__)

READ_BATCH = 250
"""Images that are read together."""
UINT8 = "clamp(x / 2 + 1 / 2, 0, 1) * 255, rounded to the nearest"
"""The conversion of `pixelflow.sampling.to_uint8`."""


REQUEST_KEYS = ("experiment", "arm", "overrides", "choices")
"""Keys of the config that state what the command asked for; an evaluation records them."""


class Outcome(tuple[float, float]):
    """The two numbers that a search minimises: distance to the reference, and TFLOP per image (nan if unknown).

    The cost is counted and not timed: the time depends on the load of the machine.
    """

    path: Path
    """File of the evaluation."""


def run_evaluation(config: Config, *, images: bool) -> Outcome:
    """Evaluates the configured checkpoint or images and prints the metrics.

    Args:
        config: A resolved config.
        images: Whether the samples of a checkpoint are written as well.

    Returns:
        The two numbers that a search minimises.
    """
    if config["checkpoint"] is None:
        source = Path(config["samples"])
        result = evaluate(config, source, source.with_name(f"{source.name}.evaluation.json"))
    elif images:
        require_metrics(config, sample_set(config).num_samples)
        folder = sample(config, config["checkpoint"])
        name = evaluation_file(Path(config["checkpoint"]).name, config)
        result = evaluate(config, folder, results_of(config, config["checkpoint"]) / name)
    else:
        result = evaluate_checkpoint(config, config["checkpoint"])
    if result["rank"] == 0 and config["checkpoint"] is not None and config["tracking"]["mlflow"]:
        mirror_evaluation(home_of(config["checkpoint"], config["runs_dir"]), result["path"], config["experiment"])
    if result["rank"] == 0:
        say("\n".join(f"{name:24} {value:.6g}" for name, value in result["metrics"].items()))
        say(f"record: {result['path']}")
    metrics = result["metrics"]
    distance = main_distance(metrics)
    outcome = Outcome((distance, result["record"].get("tflop_per_image", nan)))
    outcome.path = result["path"]
    return outcome


@dataclass(frozen=True)
class _Source:
    """Images to measure: how to pass some of them to an accumulator, and the facts for the record."""

    work: Callable[[Accumulator], Work]
    record: Callable[[Made], dict[str, Any]]
    fixed_batch: int | None = None


def evaluate(config: Config, samples: Path, path: Path) -> dict[str, Any]:
    """Measures images and writes metrics and record.

    Args:
        config: A resolved config.
        samples: A folder of images, tar shards, or an .npz.
        path: File to write.

    Returns:
        `metrics`, `record`, `path`, and the `rank` of this process.

    Raises:
        UserError: The images cannot be read or do not fit the reference. Nothing is written.
        Interrupted: A process was asked to stop. What is measured is kept.
    """
    files = open_images(samples)
    require_metrics(config, files.count)
    state = path.with_name(f".{path.stem}-{evaluation_hash(config)}-{files.listing()[:8]}.state")

    def record(made: Made) -> dict[str, Any]:
        if not (samples.is_dir() and (samples / "record.json").exists()):
            return {"samples": str(samples)}
        content = json.loads((samples / "record.json").read_text(encoding="utf-8"))
        return content | {"settings": evaluation_config(config)}

    source = _Source(lambda accumulator: _reading(files, accumulator), record)
    return _measure(config, path, state, files.count, files.side(), files.labels, lambda world, device: source)


def evaluate_checkpoint(config: Config, checkpoint: str, home: Path | None = None) -> dict[str, Any]:
    """Samples and measures without writing images. An evaluation that exists is returned as it is.

    Args:
        config: A resolved config.
        checkpoint: A checkpoint folder.
        home: The run folder, where the evaluation is written; see `pixelflow.runs.places.home_of`.

    Returns:
        See `evaluate`.

    Raises:
        UserError: Something that measuring needs is missing or does not fit; found before sampling starts.
        Interrupted: A process was asked to stop. What is measured is kept.
    """
    home = results_of(config, checkpoint) if home is None else home
    images, settings = sample_set(config), sampler_settings(config)
    require_metrics(config, images.num_samples)
    path = home / evaluation_file(Path(checkpoint).name, config)
    if path.exists() and not config["rerun"]:
        logger.info("this evaluation is there already (rerun=true repeats it)")
        return json.loads(path.read_text(encoding="utf-8")) | {"path": path, "rank": world_of(os.environ).rank}

    def prepare(world: World, device: torch.device) -> _Source:
        model = load_model(config, checkpoint, device)
        sampler = model.sampler(settings=settings)

        def record(made: Made) -> dict[str, Any]:
            facts = sampling_record(config, checkpoint, model.recipe.step, world, device)
            return facts | made.per_image(forward_costs(config)) | {"settings": evaluation_config(config)}

        def work(accumulator: Accumulator) -> Work:
            return drawing(sampler, accumulator.write, images, settings, aside=False)

        return _Source(work, record, settings.fixed_batch)

    side, state = config["data"]["image_size"], path.with_name(f".{path.stem}.state")
    return _measure(config, path, state, images.num_samples, side, images.labels, prepare)


def _reading(files: ImageFiles, accumulator: Accumulator) -> Work:
    def work(sample_ids: Sequence[int], *, on_batch: Callable[[int], None], stop: Callable[[], bool]) -> Made:
        for start in range(0, len(sample_ids), READ_BATCH):
            ids = sample_ids[start : start + READ_BATCH]
            accumulator.write(ids, files.read(ids))
            on_batch(len(ids))
            if stop():
                break
        return Made()

    return work


def _measure(
    config: Config,
    path: Path,
    state: Path,
    count: int,
    side: int,
    labels: Tensor | None,
    prepare: Callable[[World, torch.device], _Source],
) -> dict[str, Any]:
    """Measures the images of a source in all processes. Unfinished work is kept in the folder `state`."""
    device = pick_device(trainer_settings(config).device)
    with stop_on_signals(), processes(device) as (world, device), open_parts(state, world) as parts:
        suite = rank_0_first(world, lambda: build_suite(config, device))
        suite.evaluator.reference.check_resolution(side)
        missing = world.broadcast(parts.missing(count) if world.rank == 0 else None)
        if 0 < len(missing) < count:
            logger.info("%d of %d images are measured; the others follow", count - len(missing), count)
        source = prepare(world, device)
        work = source.work(Accumulator(suite, parts, labels))
        made = accumulate(world, suite, parts, work, missing=missing, count=count, fixed_batch=source.fixed_batch)
        result = None
        with shared_errors(world, wait=True):
            if world.rank == 0:
                # Other commands may share the training, whose config then states what the first of them asked for.
                record = source.record(made) | {key: config.get(key) for key in REQUEST_KEYS}
                result = _finish(suite, parts, path, record, world.size)
        return world.broadcast(result) | {"path": path, "rank": world.rank}


def _finish(suite: Suite, parts: Parts, path: Path, record: dict[str, Any], num_processes: int) -> dict[str, Any]:
    """Computes the metrics and writes the file of the evaluation."""
    metrics = suite.compute()
    count, width = suite.num_samples, suite.evaluator.features.num_features
    if count <= width:
        logger.warning(
            "%d images for %d features: the distance is biased and comparable only with others of %d images",
            count, width, count,
        )  # fmt: skip
    if "seconds_per_image" in record:
        metrics["seconds_per_image"] = record["seconds_per_image"]
    record = record | suite.record() | {
        "num_samples": count, "uint8": UINT8, "processes": num_processes, "versions": versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip
    result = {"metrics": metrics, "record": record}
    write_json(path, result)
    parts.remove()
    return result
