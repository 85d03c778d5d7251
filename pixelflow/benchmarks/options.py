"""The options of the benchmarks. Nothing here imports torch, so that declaring the jobs takes no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pixelflow.config.job import at_least

LEAST_IMAGES = 10


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of job=benchmark.

    Args:
        part: "sampling"; "training": steps beside a plain reference of the paper's recipe; "logging": its share of the
            training loop.
        images: images in a batch; training takes trainer.batch_size.
        repeats: repetitions of each kind, of which the fastest counts (of logging, the slowest).
        machine: a name for the file; None to name it after the device.
        output: the folder of the results.
        estimate: true counts memory, FLOPs and time of the recipe and runs nothing.
        devices: of the estimate; None for the number of processes.
        tflops: of the estimate: what a device reaches in plain matrix products (bf16, an H200).
        utilisation: of the estimate: the share of `tflops` that training reaches.
    """

    part: Literal["sampling", "training", "logging"] = "sampling"
    images: int = 2
    repeats: int = 1
    machine: str | None = None
    output: str = "experiments/results"
    estimate: bool = False
    devices: int | None = None
    tflops: float = 790.0
    utilisation: float = 0.4

    def __post_init__(self) -> None:
        at_least(1, self, "images", "repeats", "devices")
        for name in ("tflops", "utilisation"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class DataBenchmarkOptions:
    """Options of job=benchmark_data.

    Args:
        images: number of files that are made.
        height: of the files in pixels.
        width: of the files in pixels.
        image_size: of the loaded images in pixels.
        quality: of the prepared JPEGs.
        batch_size: images in a batch.
        batches: batches of a round; files are read repeatedly.
        workers: processes of each loader.
        rounds: repetitions, of which the median is reported.
        output: the file of the results.
    """

    images: int = 512
    height: int = 500
    width: int = 500
    image_size: int = 256
    quality: int = 95
    batch_size: int = 32
    batches: int = 64
    workers: int = 2
    rounds: int = 3
    output: str = "runs/benchmark_data.json"

    def __post_init__(self) -> None:
        names = ("images", "height", "width", "image_size", "quality", "batch_size", "batches", "rounds")
        at_least(1, self, *names)
        at_least(0, self, "workers")


@dataclass(frozen=True)
class MetricsBenchmarkOptions:
    """Options of job=benchmark_metrics.

    Args:
        images: number of images that the evaluation is measured for.
        passes: number of images whose forward passes are measured.
        side: of the images in pixels.
        batch_size: images in a batch.
        scipy: true also measures scipy's matrix square root of 2048 dimensions.
        output: the file of the results.
    """

    images: int = 10000
    passes: int = 200
    side: int = 64
    batch_size: int = 50
    scipy: bool = True
    output: str = "runs/benchmark_metrics.json"

    def __post_init__(self) -> None:
        at_least(LEAST_IMAGES, self, "images")
        at_least(1, self, "passes", "side", "batch_size")


@dataclass(frozen=True)
class ObjectiveBenchmarkOptions:
    """Options of job=benchmark_objective.

    Args:
        repeats: measured repetitions, after one that is not counted.
    """

    repeats: int = 5

    def __post_init__(self) -> None:
        at_least(1, self, "repeats")
