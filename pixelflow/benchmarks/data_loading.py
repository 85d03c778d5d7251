"""job=benchmark_data: compares the loader of this package with torchvision's ImageFolder and Pillow.

Both read the same generated JPEGs with smooth colours, edges and sensor noise, of the size of photographs, apply the
same transform, and return float32 batches in [-1, 1]. Every round measures each way once. CPU time of all processes is
compared, because wall time on a shared machine depends on other users.
"""

from __future__ import annotations

import io
import itertools
import platform
import resource
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder as TorchvisionFolder

from pixelflow.benchmarks.options import DataBenchmarkOptions
from pixelflow.data import ImageFolder, Reading, WebDataset
from pixelflow.data.images import ImageData
from pixelflow.data.preparation import PrepareSettings, prepare
from pixelflow.data.transforms import ENLARGED, HAS_LANCZOS
from pixelflow.files import write_json
from pixelflow.runs.provenance import versions
from pixelflow.terminal import say

CLASSES = 4
Way = Callable[[int], int]
"""Reads at least the given number of batches and returns the number of images."""


def run(options: DataBenchmarkOptions) -> None:
    """Measures all loaders, prints the comparison and writes the record."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pixelflow-benchmark-") as folder:
        root = Path(folder)
        kilobytes = make_photographs(root / "photographs", options.images, options.height, options.width)
        ways = build_ways(root, options)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                seconds[name].append(cpu_seconds(way, options.batches))
    plain = seconds["torchvision"]
    record: dict[str, Any] = {
        "images": f"{options.height} x {options.width} JPEG, {kilobytes:.0f} kB each, to {options.image_size} px",
        "workers": options.workers, "rounds": options.rounds, "machine": platform.machine(),
        "vector Lanczos": HAS_LANCZOS, "versions": versions(), "ways": {},
    }  # fmt: skip
    for name, values in seconds.items():
        ratios = sorted(a / b for a, b in zip(plain, values, strict=True))
        record["ways"][name] = {
            "images per CPU second": round(1 / statistics.median(values)),
            "times torchvision": round(statistics.median(ratios), 2),
            "least": round(ratios[0], 2),
            "most": round(ratios[-1], 2),
        }
    write_json(Path(options.output), record)
    say(f"{record['images']}; {options.workers} workers; medians of {options.rounds} rounds")
    for name, values in record["ways"].items():
        say(f"{name:14} " + "  ".join(f"{key} {value}" for key, value in values.items()))
    say(f"record: {options.output}")


def make_photographs(folder: Path, count: int, height: int, width: int) -> float:
    """Writes JPEGs to `folder/train/c<label>/<i>.jpg` and returns their mean size in kilobytes."""
    with ProcessPoolExecutor(2) as pool:
        sizes = list(pool.map(_photograph, itertools.repeat(folder), range(count), itertools.repeat((height, width))))
    return sum(sizes) / count / 1000


def _photograph(folder: Path, number: int, size: tuple[int, int]) -> int:
    random = np.random.default_rng(number)
    height, width = size
    pixels = np.zeros((height, width, 3), dtype=np.float32)
    for grain in (3, 12, 48, 192):  # the spectrum of natural images falls with frequency
        noise = random.standard_normal((3, height // grain + 2, width // grain + 2)).astype(np.float32)
        layers = [Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC) for layer in noise]
        pixels += np.stack([np.asarray(layer) for layer in layers], axis=-1) * grain**0.5 * 3
    y, x = np.mgrid[:height, :width]
    for _ in range(8):  # discs with edges
        cy, cx, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(20, 120)
        pixels[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] += random.uniform(-50, 50, 3)
    pixels += random.standard_normal((height, width, 1)) * 5  # sensor noise
    stream = io.BytesIO()
    Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(stream, format="JPEG", quality=90)
    path = folder / "train" / f"c{number % CLASSES}" / f"{number:05}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return len(stream.getvalue())


def build_ways(root: Path, options: DataBenchmarkOptions) -> dict[str, Way]:
    """Returns the ways to compare by name; each call of a way starts its own workers."""
    size, batch_size, workers = options.image_size, options.batch_size, options.workers
    reading = Reading(workers=workers)
    folder = ImageFolder(root=str(root / "photographs"), image_size=size, num_classes=CLASSES, reading=reading)
    short = round(ENLARGED * size)
    settings = PrepareSettings(size=short, quality=options.quality, samples_per_shard=250)
    prepare(folder, split="train", output=root / "shards", settings=settings, workers=2, max_bad_share=0)
    shards = WebDataset(
        root=str(root / "shards"), image_size=size, num_classes=CLASSES, cache_dir=str(root / "cache"), reading=reading
    )
    plain = transforms.Compose(
        [
            transforms.Resize(short, interpolation=transforms.InterpolationMode.LANCZOS),
            transforms.RandomCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(0.5, 0.5),
        ]
    )
    files = TorchvisionFolder(str(root / "photographs" / "train"), plain)

    def torchvision(count: int) -> int:
        sampler = RandomSampler(files, replacement=True, num_samples=count * batch_size)
        return sum(len(x) for x, _ in DataLoader(files, batch_size, sampler=sampler, num_workers=workers))

    def ours(data: ImageData) -> Way:
        def read(count: int) -> int:
            loader = data.loader(batch_size=batch_size, seed=0)
            images = sum(len(batch) for batch in itertools.islice(loader, count))
            return images + sum(len(batch) for batch in loader.remaining())

        return read

    return {"torchvision": torchvision, "imagefolder": ours(folder), "prepared": ours(shards)}


def cpu_seconds(way: Way, count: int) -> float:
    """Returns the seconds per image of user and system time of this process and of its workers, which have ended."""
    before = _cpu()
    images = way(count)
    return (_cpu() - before) / images


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
