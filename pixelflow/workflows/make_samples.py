"""Draws images from a checkpoint and records how they were computed.

Started by torchrun or by srun with several tasks, the processes divide the work. The same command again computes the
images that are missing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
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
from pixelflow.config.sections import read_sampler
from pixelflow.errors import Interrupted, WorkFailed
from pixelflow.files import write_json
from pixelflow.processes import World, held, processes, shared_errors, world_of
from pixelflow.reporting.figures import image_grid
from pixelflow.reporting.trajectories import Trajectories
from pixelflow.runs.identity import file_name, sampling_hash
from pixelflow.runs.places import home_of, report_home
from pixelflow.runs.provenance import versions
from pixelflow.sampling.outputs import PngOutput, make_output
from pixelflow.sampling.produce import Made
from pixelflow.sampling.sampler import Sampler
from pixelflow.sampling.settings import SampleSet
from pixelflow.sampling.shared import drawing, work_in_shares
from pixelflow.signals import stop_on_signals
from pixelflow.terminal import say
from pixelflow.types import Condition

logger = logging.getLogger(__name__)

GRID_IMAGES_PER_CLASS = GRID_CLASSES = 10


def results_of(config: Config, checkpoint: str | Path) -> Path:
    """Returns the folder for the samples and evaluations of a checkpoint, and logs one that is not its own run."""
    home = home_of(checkpoint, config["runs_dir"])
    if world_of(os.environ).rank == 0:
        report_home(home, checkpoint)
    return home


def sample(config: Config, checkpoint: str | Path, home: Path | None = None) -> Path:
    """Writes the images, grid.png and record.json that are missing.

    Args:
        config: A resolved config.
        checkpoint: A checkpoint folder.
        home: The run folder; by default see `pixelflow.runs.places.home_of`.

    Returns:
        The folder, `home`/samples/<step>-<hash>.

    Raises:
        WorkFailed: Images cannot be written. Those that were written are kept.
        UserError: Another process works on the folder.
        Interrupted: A process was asked to stop. The images that were written are kept.
    """
    home = results_of(config, checkpoint) if home is None else home
    folder = home / "samples" / f"{file_name(Path(checkpoint).name)}-{sampling_hash(config)}"
    device = pick_device(trainer_settings(config).device)
    with stop_on_signals(), processes(device) as (world, device), held(folder, world):
        _sample(config, str(checkpoint), folder, world, device)
    return folder


def _sample(config: Config, checkpoint: str, folder: Path, world: World, device: torch.device) -> None:
    section, images, settings = read_sampler(config), sample_set(config), sampler_settings(config)
    labels, total = images.labels, images.num_samples
    size = config["data"]["image_size"]
    output = make_output(section.format, folder, labels=labels, size=size, per_shard=section.per_shard)
    # Rank 0 looks for all: what one process has written must not change what another believes to be missing.
    missing = world.broadcast(output.missing() if world.rank == 0 else None)
    if not missing and (folder / "record.json").exists() and not section.trajectories:
        logger.info("the samples exist already: %s", folder)
        return
    if 0 < len(missing) < total:
        logger.info("%d of %d images are there; the others follow", total - len(missing), total)
    model = load_model(config, checkpoint, device)
    sampler = model.sampler(settings=settings)
    draw = drawing(sampler, output.store.write, images, settings, aside=True)

    def work(sample_ids: Sequence[int], *, on_batch: Callable[[int], None], stop: Callable[[], bool]) -> Made:
        with output.reporting_errors():
            return draw(sample_ids, on_batch=on_batch, stop=stop)

    done = work_in_shares(world, missing, work, fixed_batch=settings.fixed_batch)
    if done.stopped and done.made.images < len(missing):
        raise Interrupted(f"{total - len(missing) + done.made.images} of {total} images are kept")
    with shared_errors(world, wait=True):
        if world.rank == 0:
            record = sampling_record(config, checkpoint, model.recipe.step, world, device)
            costs = done.made.per_image(forward_costs(config))
            _finish(output, missing, sampler, images, section.trajectories, record, costs)


def _finish(
    output: PngOutput,
    missing: list[int],
    sampler: Sampler,
    images: SampleSet,
    trajectories: int,
    record: dict[str, Any],
    costs: dict[str, float],
) -> None:
    """Writes the figures, the output in its final form, and the record."""
    folder = output.folder
    if left := output.store.missing(missing):
        raise WorkFailed(
            f"{len(left)} images are missing although they were written: does another job change {folder}?"
        )
    if trajectories:
        _draw_trajectories(sampler, images, trajectories, folder)
    _write_grid(folder / "grid.png", output, images.labels)
    with output.reporting_errors():
        output.finish()
    record = record | {"output": output.path.name}
    write_json(folder / "record.json", record | _timing(folder / "record.json", costs))


def sampling_record(config: Config, checkpoint: str, step: int, world: World, device: torch.device) -> dict[str, Any]:
    """Returns the facts about a set of images that their comparison with others depends on."""
    section, images, settings = read_sampler(config), sample_set(config), sampler_settings(config)
    return {
        "checkpoint": checkpoint,
        "step": step,
        "weights": section.weights,
        "solver": config["solver"],
        "guidance": config["guidance"],
        "seed": images.seed,
        "classes": section.classes,
        "class_list": list(images.classes),
        "num_samples": images.num_samples,
        "batch_size": section.batch_size,
        "fixed_batch": settings.fixed_batch,
        "cache_every": settings.cache_every,
        "precision": settings.precision,
        "processes": world.size,
        "device": str(device),
        "versions": versions(),
    }


def _timing(path: Path, costs: dict[str, float]) -> dict[str, Any]:
    """Costs per image: of this call, or of an earlier one that computed more images.

    There are none if an earlier call was stopped between its last image and its record.
    """
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier.get("images_timed", 0) >= costs.get("images_timed", 0):
            keys = (
                "nfe", "forward_passes_per_image", "tflop_per_image", "seconds_per_image", "images_timed", "other_load",
            )  # fmt: skip
            return {key: earlier[key] for key in keys if key in earlier}
    return costs


def _write_grid(path: Path, output: PngOutput, labels: Tensor) -> None:
    """Draws one row for each of at most ten classes, with the first images of the class."""
    if path.exists():
        return
    shown = labels.unique()[:GRID_CLASSES]
    positions = [(labels == label).nonzero()[:GRID_IMAGES_PER_CLASS, 0] for label in shown]
    columns = len(positions[0])
    rows = [row for row in positions if len(row) == columns]
    ids = torch.cat(rows).tolist()
    if not all(
        output.store.path(i).exists() for i in ids
    ):  # they are in their final form, and the user deleted the grid
        return
    images = output.store.read(ids)
    row_labels = [str(label.item()) for label in shown[: len(rows)]]
    image_grid(images, path, columns=columns, row_labels=row_labels, scale=2)


def _draw_trajectories(sampler: Sampler, images: SampleSet, count: int, folder: Path) -> None:
    """Writes stages.png, filmstrip.png and trajectory.gif of the first images."""
    ids = list(range(min(count, images.num_samples)))
    labels = images.labels_of(ids)
    trajectories = Trajectories(sampler.cascade, labels.tolist())
    noise = sampler.keyed_noise(ids, images.seed)
    sampler.sample(Condition(labels), noise, observe=trajectories.observe, evaluated=trajectories.evaluated)
    say("\n".join(f"trajectory: {path}" for path in trajectories.write(folder)))
