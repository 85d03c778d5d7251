"""job=sample: images from a checkpoint, with the record of how they came about."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelflow.jobs.build import Config, load_sampler, pick_device
from pixelflow.launch.provenance import versions
from pixelflow.launch.run_folder import write_json
from pixelflow.reporting.figures import image_grid
from pixelflow.sampling.sampler import Sampler, to_uint8
from pixelflow.training.progress import Progress
from pixelflow.types import Condition

logger = logging.getLogger(__name__)

GRID_IMAGES_PER_CLASS = 10


def run(config: Config, overrides: list[str]) -> None:
    folder = sample(config, config["checkpoint"])
    print(f"samples: {folder / 'images.npz'}\ngrid:    {folder / 'grid.png'}")


def run_of(checkpoint: str | Path) -> Path:
    """The run folder of a checkpoint; for one on its own, the folder beside it."""
    return Path(checkpoint).resolve().parent.parent


def settings_hash(config: Config) -> str:
    """Of what makes two sets of samples from one checkpoint differ."""
    parts: dict[str, Any] = {key: config[key] for key in ("solver", "guidance", "sampler")}
    parts["sampler"] = {key: value for key, value in parts["sampler"].items() if key != "batch_size"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def sample(config: Config, checkpoint: str | Path, home: Path | None = None) -> Path:
    """Write images.npz, grid.png and record.json to `home`/samples/<step>-<hash>/; nothing to do if they are there.

    home: the run folder; by default the checkpoint's.
    """
    home = run_of(checkpoint) if home is None else home
    folder = home / "samples" / f"{Path(checkpoint).name}-{settings_hash(config)}"
    if (folder / "record.json").exists():
        logger.info("samples are there: %s", folder)
        return folder
    device = pick_device(config["trainer"]["device"])
    sampler, step = load_sampler(config, str(checkpoint), device)
    start = time.perf_counter()
    batches = list(generate(config, sampler))
    seconds = time.perf_counter() - start
    images = torch.cat([b.images for b in batches])
    labels = torch.cat([b.labels for b in batches])
    folder.mkdir(parents=True, exist_ok=True)
    save_npz(folder / "images.npz", images, labels)
    write_grid(folder / "grid.png", images, labels, config["data"]["num_classes"])
    record = {
        "checkpoint": str(checkpoint),
        "step": step,
        "weights": config["sampler"]["weights"],
        "solver": config["solver"],
        "guidance": config["guidance"],
        "nfe": batches[0].nfe,
        "forward_passes_per_image": batches[0].passes,
        "seed": config["sampler"]["seed"],
        "num_samples": len(images),
        "seconds_per_image": seconds / len(images),
        "batch_size": config["sampler"]["batch_size"],
        "device": str(device),
        "versions": versions(),
    }
    write_json(folder / "record.json", record)
    return folder


@dataclass(frozen=True)
class GeneratedBatch:
    """images: (B, C, R, R) uint8 and labels: (B,), on the CPU. nfe, passes: see `Samples`."""

    images: Tensor
    labels: Tensor
    nfe: int
    passes: float


def generate(config: Config, sampler: Sampler) -> Iterator[GeneratedBatch]:
    """Samples 0, 1, 2, ... in order; sample i shows class i mod num_classes, so the classes are balanced."""
    settings, num_classes = config["sampler"], config["data"]["num_classes"]
    progress = Progress(total=settings["num_samples"], unit="image")
    for ids in torch.arange(settings["num_samples"]).split(settings["batch_size"]):
        labels = ids % num_classes
        samples = sampler.sample(Condition(labels), sampler.keyed_noise(ids.tolist(), settings["seed"]))
        progress.advance(len(ids), images=len(ids))
        progress.show()
        yield GeneratedBatch(to_uint8(samples.x).cpu(), labels, samples.nfe, samples.passes)
    progress.close()


def save_npz(path: Path, images: Tensor, labels: Tensor) -> None:
    """The form of the ADM suite: `arr_0` uint8 (N, H, W, 3); `arr_1` the labels. Grey images get three channels."""
    pixels = images.permute(0, 2, 3, 1)
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(-1, -1, -1, 3)
    aside = path.with_name(f".{path.name}")
    with open(aside, "wb") as stream:
        np.savez(stream, arr_0=pixels.numpy(), arr_1=labels.numpy())
    aside.replace(path)


def write_grid(path: Path, images: Tensor, labels: Tensor, num_classes: int) -> None:
    """One row per class, for at most ten classes."""
    shown = min(num_classes, 10)
    columns = min(GRID_IMAGES_PER_CLASS, int((labels == 0).sum()))
    rows = [images[labels == label][:columns] for label in range(shown)]
    full = [row for row in rows if len(row) == columns]
    image_grid(torch.cat(full), path, columns=columns, row_labels=[str(i) for i in range(len(full))], scale=2)
