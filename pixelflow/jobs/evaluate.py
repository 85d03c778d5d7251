"""job=evaluate: metrics of a checkpoint's samples, or of given images, with the record of how they came about."""

from __future__ import annotations

import json
import logging
import time
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelflow.jobs.build import Config, build_evaluator, pick_device
from pixelflow.jobs.sample import run_of, sample
from pixelflow.launch.provenance import versions
from pixelflow.launch.run_folder import write_json
from pixelflow.sampling.produce import labels_of

logger = logging.getLogger(__name__)

FEATURE_BATCH = 250


def run(config: Config, overrides: list[str]) -> tuple[float, float]:
    """Returns what a search minimises: the distance to the reference, and the seconds per image (nan if unknown)."""
    if config["checkpoint"] is not None:
        folder = sample(config, config["checkpoint"])
        result = evaluate(config, folder, run_of(config["checkpoint"]) / "evaluation" / f"{folder.name}.json")
    else:
        source = Path(config["samples"])
        result = evaluate(config, source, source.with_name(f"{source.name}.evaluation.json"))
    print("\n".join(f"{name:24} {value:.6g}" for name, value in result["metrics"].items()))
    print(f"record: {result['path']}")
    metrics = result["metrics"]
    return next(value for name, value in metrics.items() if name.startswith(("fd_", "fid"))), metrics.get(
        "seconds_per_image", nan
    )


def evaluate(config: Config, samples: Path, path: Path) -> dict[str, Any]:
    """Measure the images in `samples` (a folder or an .npz) and write metrics and record to `path`.

    Raises ValueError for images that cannot be read or do not fit the reference.
    """
    images, labels = read_images(samples)
    evaluator = build_evaluator(config, pick_device(config["trainer"]["device"]))
    size = config["data"]["image_size"]
    if images.shape[-1] != size:
        raise ValueError(f"{samples} has images of {images.shape[-1]} px, the reference of data.image_size={size}")
    for start in range(0, len(images), FEATURE_BATCH):
        part = slice(start, start + FEATURE_BATCH)
        evaluator.update(images[part], None if labels is None else labels[part])
    metrics = evaluator.compute()
    record: dict[str, Any] = {"samples": str(samples)}
    if samples.is_dir() and (samples / "record.json").exists():
        record = json.loads((samples / "record.json").read_text(encoding="utf-8"))
        if "seconds_per_image" in record:
            metrics["seconds_per_image"] = record["seconds_per_image"]
    record |= {
        "num_samples": len(images),
        "features": evaluator.features.name,
        "reference": evaluator.reference.name,
        "versions": versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(path, {"metrics": metrics, "record": record})
    return {"metrics": metrics, "record": record, "path": path}


def read_images(source: Path) -> tuple[Tensor, Tensor | None]:
    """(N, C, H, W) uint8 and labels, if there are any, from our samples folder, an .npz, or a folder of images.

    Raises ValueError naming the file that cannot be used.
    """
    if source.is_dir() and (source / "images.npz").exists():
        source = source / "images.npz"
    if source.is_dir() and list(source.glob("shard_*.tar")):
        return _read_shards(source)
    if source.is_dir() and (source / "images").is_dir():
        images = _read_folder(source / "images")
        return images, _recorded_labels(source, len(images))
    if source.is_dir():
        return _read_folder(source), None
    try:
        with np.load(source, allow_pickle=False) as archive:
            if "arr_0" not in archive:
                raise ValueError(f"{source} has no arr_0 (it has {', '.join(archive) or 'nothing'})")
            pixels = archive["arr_0"]
            labels = archive.get("arr_1")
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} cannot be read as an .npz of images: {error}") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(f"{source}: arr_0 must be uint8 (N, H, W, C), got {pixels.dtype} {pixels.shape}")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return images, None if labels is None else torch.from_numpy(labels).long()


def _recorded_labels(folder: Path, count: int) -> Tensor | None:
    """The labels that job=sample gave to a folder of PNGs."""
    if not (folder / "record.json").exists():
        return None
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return labels_of(record["class_list"], count)


def _read_shards(folder: Path) -> tuple[Tensor, Tensor]:
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("shard_*.tar"))]
    images, labels = [], []
    for item in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"):
        images.append(item["png"])
        labels.append(int(item["cls"]))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


def _read_folder(folder: Path) -> Tensor:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not files:
        raise ValueError(f"samples={folder} holds no .png, .jpg or .webp images")
    images: list[np.ndarray] = []
    for file in files:
        try:
            pixels = np.array(Image.open(file).convert("RGB"))
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
        if images and pixels.shape != images[0].shape:
            raise ValueError(f"{file} has {pixels.shape[:2]} pixels, {files[0].name} has {images[0].shape[:2]}")
        images.append(pixels)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
