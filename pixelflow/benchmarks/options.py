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
        part: "sampling"; "training", which compares steps with those of a plain reference; "logging", which measures
            the share of logging in the training loop.
        images: Images per batch; "training" uses trainer.batch_size.
        repeats: Repetitions of each measurement. The fastest counts; for "logging", the slowest.
        machine: Name of the machine in file names; None to name it after the device.
        output: Folder of the results. None: experiments/results for measurements, and no file for an estimate.
        estimate: Whether memory, FLOPs and time of the recipe, with all settings of its sweep, are counted instead,
            without running anything.
        devices: Number of devices of the estimate; None for the number of processes.
        tflops: Rate of plain matrix products on one device in the estimate (default: bf16 on an H200).
        utilisation: Share of `tflops` that training and sampling reach in the estimate.
        memory_gib: Memory of one device in the estimate.
        adaptive_evaluations: Velocity evaluations of each stage that the estimate assumes for an adaptive solver. The
            default is what dopri5 took on the digits (experiments/results/quality.md: 234 passes in two stages, of
            which the second is guided).
    """

    part: Literal["sampling", "training", "logging"] = "sampling"
    images: int = 2
    repeats: int = 1
    machine: str | None = None
    output: str | None = None
    estimate: bool = False
    devices: int | None = None
    tflops: float = 790.0
    utilisation: float = 0.4
    memory_gib: float = 80.0
    adaptive_evaluations: int = 78

    def __post_init__(self) -> None:
        at_least(1, self, "images", "repeats", "devices", "adaptive_evaluations")
        for name in ("tflops", "utilisation", "memory_gib"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class DataBenchmarkOptions:
    """Options of job=benchmark_data.

    Args:
        images: Number of files that are made.
        height: Height of the files in pixels.
        width: Width of the files in pixels.
        image_size: Size of the loaded images in pixels.
        quality: Quality of the prepared JPEGs, 1 to 100.
        batch_size: Images per batch.
        batches: Batches per round; files are read repeatedly.
        workers: Number of processes of each loader.
        rounds: Repetitions, of which the median is reported.
        output: File of the results.
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
        images: Number of images of the evaluation.
        passes: Number of images whose forward passes are measured.
        side: Height and width of the images in pixels.
        batch_size: Images per batch.
        scipy: Whether scipy's matrix square root of 2048 dimensions is measured too.
        output: File of the results.
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
        repeats: Number of measured repetitions, after one that is not counted.
    """

    repeats: int = 5

    def __post_init__(self) -> None:
        at_least(1, self, "repeats")
