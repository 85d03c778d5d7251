"""Metrics of a checkpoint or of given images, with the record of how they came about.

A checkpoint's samples are measured as they are made and written only when asked for (job.images=true). Started by
torchrun or by srun with several tasks, the processes share the work; given again, the command goes on.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import astuple
from math import nan
from pathlib import Path
from typing import Any

from pixelflow.config.build import Config, load_model, pick_device, sample_set, sampler_settings
from pixelflow.config.suites import build_suite, require_metrics
from pixelflow.data.image_files import open_images
from pixelflow.files import write_json
from pixelflow.jobs.shared.make_samples import run_of, sample, sampling_record
from pixelflow.metrics.accumulate import Accumulator, Parts, accumulate, open_parts, together
from pixelflow.metrics.catalogue import main_distance
from pixelflow.metrics.suite import Suite
from pixelflow.processes import World, processes, world_of
from pixelflow.progress import Progress
from pixelflow.runs.identity import evaluation_config, evaluation_file, evaluation_hash
from pixelflow.runs.provenance import versions
from pixelflow.sampling.produce import Made, produce, share
from pixelflow.sampling.settings import SampleSet
from pixelflow.signals import stop_on_signals, stop_signal

logger = logging.getLogger(__name__)

READ_BATCH = 250
UINT8 = "clamp(x / 2 + 1 / 2, 0, 1) * 255, rounded to the nearest"
"""What `pixelflow.sampling.to_uint8` does."""


class Outcome(tuple[float, float]):
    """What a search minimises: the distance to the reference, and the seconds per image (nan if unknown).

    path: of the evaluation's record.
    """

    path: Path


def run_evaluation(config: Config, *, images: bool) -> Outcome:
    """Runs job=evaluate and prints the metrics. images: also write a checkpoint's samples."""
    if config["checkpoint"] is None:
        source = Path(config["samples"])
        result = evaluate(config, source, source.with_name(f"{source.name}.evaluation.json"))
    elif images:
        require_metrics(config, config["sampler"]["num_samples"])
        folder = sample(config, config["checkpoint"])
        name = evaluation_file(Path(config["checkpoint"]).name, config)
        result = evaluate(config, folder, run_of(config["checkpoint"]) / name)
    else:
        result = evaluate_checkpoint(config, config["checkpoint"])
    if result["rank"] == 0:
        print("\n".join(f"{name:24} {value:.6g}" for name, value in result["metrics"].items()))
        print(f"record: {result['path']}")
    metrics = result["metrics"]
    distance = main_distance(metrics)
    outcome = Outcome((distance, metrics.get("seconds_per_image", nan)))
    outcome.path = result["path"]
    return outcome


def evaluate(config: Config, samples: Path, path: Path) -> dict[str, Any]:
    """Measure the images in `samples` (a folder, shards or an .npz) and write metrics and record to `path`.

    Raises ValueError for images that cannot be read or do not fit the reference; nothing is written then.
    """
    files = open_images(samples)
    require_metrics(config, files.count)
    device = pick_device(config["trainer"]["device"])
    state = path.with_name(f".{path.stem}-{evaluation_hash(config)}-{files.listing()[:8]}.state")
    with stop_on_signals(), processes(device) as (world, device), open_parts(state, world) as parts:
        suite = together(world, lambda: build_suite(config, device))
        suite.evaluator.reference.check_resolution(files.side())
        missing = world.broadcast(parts.missing(files.count) if world.rank == 0 else None)
        mine = share(missing, rank=world.rank, size=world.size)
        feeder = Accumulator(suite, parts, files.labels)

        def work() -> None:
            progress = Progress(total=len(mine), unit="image")
            for start in range(0, len(mine), READ_BATCH):
                ids = mine[start : start + READ_BATCH]
                feeder.write(ids, files.read(ids))
                progress.advance(len(ids), images=len(ids))
                if world.rank == 0 and len(mine) > READ_BATCH * 10:
                    progress.show("measured")
                if stop_signal() is not None and start + READ_BATCH < len(mine):
                    break
            progress.close()

        accumulate(world, suite, parts, files.count, work)
        record: dict[str, Any] = {"samples": str(samples)}
        if samples.is_dir() and (samples / "record.json").exists():
            record = json.loads((samples / "record.json").read_text(encoding="utf-8"))
            record["settings"] = evaluation_config(config)
        return _finish(world, suite, parts, path, record)


def evaluate_checkpoint(config: Config, checkpoint: str, home: Path | None = None) -> dict[str, Any]:
    """Sample, measure and forget; metrics and record go to `home`/evaluation. What is there already is not done again.

    home: the run folder; by default the checkpoint's. Raises Interrupted with what is measured, ValueError for anything
    that is missing or does not fit, before sampling starts.
    """
    home = run_of(checkpoint) if home is None else home
    count = config["sampler"]["num_samples"]
    require_metrics(config, count)
    path = home / evaluation_file(Path(checkpoint).name, config)
    if path.exists() and not config["rerun"]:
        logger.info("this evaluation is there already (rerun=true does it anew)")
        return json.loads(path.read_text(encoding="utf-8")) | {"path": path, "rank": world_of(os.environ).rank}
    device = pick_device(config["trainer"]["device"])
    state = path.with_name(f".{path.stem}.state")
    with stop_on_signals(), processes(device) as (world, device), open_parts(state, world) as parts:
        suite = together(world, lambda: build_suite(config, device))
        suite.evaluator.reference.check_resolution(config["data"]["image_size"])
        missing = world.broadcast(parts.missing(count) if world.rank == 0 else None)
        if 0 < len(missing) < count:
            logger.info("%d of %d images are measured; the others follow", count - len(missing), count)
        model = load_model(config, checkpoint, device)
        sampler, step, images = model.sampler(settings=sampler_settings(config)), model.recipe.step, sample_set(config)
        feeder = Accumulator(suite, parts, images.labels)

        def work() -> Made:
            return _sample(config, sampler, feeder, missing, images, world)

        results = accumulate(world, suite, parts, count, work)
        made = Made(*(sum(values) for values in zip(*map(astuple, results), strict=True)))
        record = sampling_record(config, checkpoint, step, world, device) | _costs(made)
        record["settings"] = evaluation_config(config)
        return _finish(world, suite, parts, path, record)


def _sample(
    config: Config, sampler: Any, feeder: Accumulator, missing: list[int], images: SampleSet, world: World
) -> Made:
    settings = config["sampler"]
    mine = share(missing, rank=world.rank, size=world.size, fixed_batch=settings["fixed_batch"])
    progress = Progress(total=len(mine), unit="image")

    def on_batch(count: int) -> None:
        progress.advance(count, images=count)
        if world.rank == 0:
            progress.show(f"process 1 of {world.size}" if world.size > 1 else "")

    try:
        return produce(
            sampler, feeder.write, mine, images=images, settings=sampler_settings(config),
            on_batch=on_batch, stop=lambda: stop_signal() is not None, aside=False,
        )  # fmt: skip
    finally:
        progress.close()


def _costs(made: Made) -> dict[str, Any]:
    """Per image, over the images of this call; seconds are the sampler's alone."""
    if not made.images:
        return {}
    costs = {"nfe": made.nfe, "forward_passes_per_image": made.passes, "seconds_per_image": made.seconds}
    return {key: cost / made.images for key, cost in costs.items()} | {"images_timed": made.images}


def _finish(world: World, suite: Suite, parts: Parts, path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Rank 0 computes and writes, all return it."""
    result: dict[str, Any] | None = None
    message = None
    if world.rank == 0:
        try:
            metrics = suite.compute()
            count, width = suite.num_samples, suite.evaluator.features.num_features
            if count <= width:
                logger.warning(
                    "%d images for %d features: a biased number, only to be set beside others of %d images",
                    count, width, count,
                )  # fmt: skip
            if "seconds_per_image" in record:
                metrics["seconds_per_image"] = record["seconds_per_image"]
            record = record | suite.record() | {
                "num_samples": count, "uint8": UINT8, "processes": world.size, "versions": versions(),
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }  # fmt: skip
            result = {"metrics": metrics, "record": record}
            write_json(path, result)
            parts.remove()
        except ValueError as error:
            message = str(error)
    if (message := world.broadcast(message)) is not None:
        raise ValueError(message)
    return world.broadcast(result) | {"path": path, "rank": world.rank}
