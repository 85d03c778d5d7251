"""Images from a checkpoint, with the record of how they came about.

Started by torchrun or by srun with several tasks, the processes share the work. Given again, the command makes what is
missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelflow.config.build import Config, load_model, pick_device, sample_set, sampler_settings
from pixelflow.errors import Interrupted
from pixelflow.files import write_json
from pixelflow.processes import World, held, processes
from pixelflow.progress import Progress
from pixelflow.reporting.figures import image_grid
from pixelflow.reporting.trajectories import Trajectories
from pixelflow.runs.identity import sampling_hash
from pixelflow.runs.provenance import versions
from pixelflow.sampling.outputs import PngOutput, make_output
from pixelflow.sampling.produce import Made, parse_classes, produce, share
from pixelflow.sampling.sampler import Sampler
from pixelflow.sampling.settings import SampleSet
from pixelflow.signals import stop_on_signals, stop_signal
from pixelflow.types import Condition

logger = logging.getLogger(__name__)

GRID_IMAGES_PER_CLASS = GRID_CLASSES = 10


def run_of(checkpoint: str | Path) -> Path:
    """The run folder of a checkpoint; for one on its own, the folder beside it."""
    return Path(checkpoint).resolve().parent.parent


def sample(config: Config, checkpoint: str | Path, home: Path | None = None) -> Path:
    """Write images, grid.png and record.json to `home`/samples/<step>-<hash>/; only what is not there yet.

    home: the run folder; by default the checkpoint's. Raises OSError where the images cannot be written, with what is
    kept; ValueError where another process is at it.
    """
    home = run_of(checkpoint) if home is None else home
    folder = home / "samples" / f"{Path(checkpoint).name}-{sampling_hash(config)}"
    device = pick_device(config["trainer"]["device"])
    with stop_on_signals(), processes(device) as (world, device), held(folder, world):
        _sample(config, str(checkpoint), folder, world, device)
    return folder


def _sample(config: Config, checkpoint: str, folder: Path, world: World, device: torch.device) -> None:
    settings = config["sampler"]
    images = sample_set(config)
    labels = images.labels
    output = make_output(
        settings["format"], folder, labels=labels, size=config["data"]["image_size"], per_shard=settings["per_shard"]
    )
    # One process looks, and all hear the same: what one has written must not change what another thinks is missing.
    missing = world.broadcast(output.missing() if world.rank == 0 else None)
    if not missing and (folder / "record.json").exists():
        logger.info("samples are there: %s", folder)
        return
    if 0 < len(missing) < len(labels):
        logger.info("%d of %d images are there; the others follow", len(labels) - len(missing), len(labels))
    model = load_model(config, checkpoint, device)
    sampler, step = model.sampler(settings=sampler_settings(config)), model.recipe.step
    made = _together(
        world, lambda: _make(config, sampler, output, missing, images, world), output, len(missing), len(labels)
    )
    if world.rank == 0:
        left = output.store.missing(missing)
        if left:
            raise OSError(f"{len(left)} images are missing though they were written: is {folder} changed by others?")
        if settings["trajectories"]:
            _draw_trajectories(config, sampler, folder, labels)
        _write_grid(folder / "grid.png", output, labels)
        try:
            output.finish()
        except OSError as error:
            raise _unwritten(output, len(labels), error) from error
        record = sampling_record(config, checkpoint, step, world, device) | {"output": output.path.name}
        write_json(folder / "record.json", record | _timing(folder / "record.json", made))
    world.gather(None)  # nobody reads before the record is there


def _make(
    config: Config, sampler: Sampler, output: PngOutput, missing: list[int], images: SampleSet, world: World
) -> Made:
    settings = config["sampler"]
    mine = share(missing, rank=world.rank, size=world.size, fixed_batch=settings["fixed_batch"])
    progress = Progress(total=len(mine), unit="image")
    note = f"process 1 of {world.size}" if world.size > 1 else ""

    def on_batch(count: int) -> None:
        progress.advance(count, images=count)
        if world.rank == 0:
            progress.show(note)

    try:
        return produce(
            sampler,
            output.store.write,
            mine,
            images=images,
            settings=sampler_settings(config),
            on_batch=on_batch,
            stop=lambda: stop_signal() is not None,
        )
    finally:
        progress.close()


def _together(world: World, work: Callable[[], Made], output: PngOutput, wanted: int, total: int) -> Made:
    """Everyone's work summed; if one fails or is stopped, all end with its message instead of waiting for it."""
    made, message = Made(), None
    try:
        made = work()
    except OSError as error:
        message = str(_unwritten(output, total, error))
    results = world.gather((message, stop_signal() is not None, astuple(made)))
    for rank, (failure, _, _) in enumerate(results):
        if failure is not None:
            raise OSError(failure if world.size == 1 else f"process {rank + 1} of {world.size}: {failure}")
    everything = Made(*(sum(values) for values in zip(*(numbers for _, _, numbers in results), strict=True)))
    if any(stopped for _, stopped, _ in results) and everything.images < wanted:
        raise Interrupted(f"{total - wanted + everything.images} of {total} images are kept")
    return everything


def _unwritten(output: PngOutput, total: int, error: OSError) -> OSError:
    there = len(list(output.store.folder.glob("*.png")))
    return OSError(
        f"images could not be written to {output.folder}: {error.strerror or error}; {there} of {total} are kept, "
        "and the same command goes on from there"
    )


def sampling_record(config: Config, checkpoint: str, step: int, world: World, device: torch.device) -> dict[str, Any]:
    """What a reader must know about how the images came about."""
    settings = config["sampler"]
    return {
        "checkpoint": checkpoint,
        "step": step,
        "weights": settings["weights"],
        "solver": config["solver"],
        "guidance": config["guidance"],
        "seed": settings["seed"],
        "classes": settings["classes"],
        "class_list": parse_classes(settings["classes"], config["data"]["num_classes"]),
        "num_samples": settings["num_samples"],
        "batch_size": settings["batch_size"],
        "fixed_batch": settings["fixed_batch"],
        "cache_every": settings["cache_every"],
        "precision": config["trainer"]["precision"],
        "processes": world.size,
        "device": str(device),
        "versions": versions(),
    }


def _timing(path: Path, made: Made) -> dict[str, Any]:
    """Costs per image, over the images of this call, or of an earlier one that made more of them.

    None where an earlier call was stopped between its last image and its record.
    """
    keys = ("nfe", "forward_passes_per_image", "seconds_per_image", "images_timed")
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier.get("images_timed", 0) >= made.images:
            return {key: earlier[key] for key in keys if key in earlier}
    if not made.images:
        return {}
    # Seconds of one device: with several processes their sum.
    costs = (made.nfe, made.passes, made.seconds)
    return dict(zip(keys, [*(cost / made.images for cost in costs), made.images], strict=True))


def _write_grid(path: Path, output: PngOutput, labels: Tensor) -> None:
    """One row per class, the first images of at most ten classes."""
    if path.exists():
        return
    shown = labels.unique()[:GRID_CLASSES]
    positions = [(labels == label).nonzero()[:GRID_IMAGES_PER_CLASS, 0] for label in shown]
    columns = len(positions[0])
    rows = [row for row in positions if len(row) == columns]
    ids = torch.cat(rows).tolist()
    if not all(output.store.path(i).exists() for i in ids):  # in their final form already, and the grid was deleted
        return
    images = output.store.read(ids)
    row_labels = [str(label.item()) for label in shown[: len(rows)]]
    image_grid(images, path, columns=columns, row_labels=row_labels, scale=2)


def _draw_trajectories(config: Config, sampler: Sampler, folder: Path, labels: Tensor) -> None:
    """stages.png, filmstrip.png and trajectory.gif of the first images."""
    ids = list(range(min(config["sampler"]["trajectories"], len(labels))))
    trajectories = Trajectories(size=config["data"]["image_size"])
    noise = sampler.keyed_noise(ids, config["sampler"]["seed"])
    sampler.sample(Condition(labels[ids]), noise, observe=trajectories.observe)
    trajectories.write(folder)
