"""job=benchmark_metrics: compares the time of an evaluation with that of its feature network alone.

The feature network's time per image is measured on job.passes images of noise and multiplied by job.images. Everything
else that an evaluation of job.images images computes is computed and measured, on the features of a few images with
noise added. The reference keeps as many features as a real one. The time does not depend on the values of the features
or of the weights, so random weights can be used (file=null).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelflow.benchmarks.options import MetricsBenchmarkOptions
from pixelflow.config.build import Config, assets_root, pick_device
from pixelflow.config.schema import build
from pixelflow.files import write_json
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import FeatureExtractor, Features
from pixelflow.metrics.frechet import GaussianStatistics, frechet_distance
from pixelflow.metrics.reference import KEPT, Reference
from pixelflow.runs.provenance import versions
from pixelflow.terminal import say

FEATURES = 2048


def run(config: Config, options: MetricsBenchmarkOptions) -> None:
    """Measures both, writes the record to job.output and prints it."""
    device = pick_device(config["trainer"]["device"])
    extractor = build(config, "metrics.features")
    extractor.load(assets_root(config), device)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, 3, options.side, options.side)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    few = extractor(images)
    made = Reference.from_images(extractor, [images], name="noise")
    reference = replace(made, pool=scattered(few.pool.cpu(), KEPT, generator))
    forward = _forward(extractor, images, options.passes) * options.images
    batches = [_scattered(few, len(images), generator) for _ in range(-(-options.images // len(images)))]
    update, compute, metrics = _arithmetic(Evaluator(features=extractor, reference=reference), images, batches)
    result = {
        "forward_seconds": forward, "update_seconds": update, "compute_seconds": compute,
        "whole_over_forward": 1 + (update + compute) / forward, "metrics": metrics,
    }  # fmt: skip
    result |= _frechet(generator, with_scipy=options.scipy)
    result |= {"features": extractor.name, "images": options.images, "side": options.side, "device": str(device)}
    result |= {"threads": torch.get_num_threads(), "load_average": os.getloadavg()[0], "versions": versions()}
    write_json(Path(options.output), result)
    for key, value in result.items():
        say(f"{key:26} {value:.4g}" if isinstance(value, float) else f"{key:26} {value}")
    say(f"written: {options.output}")


def scattered(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns `count` rows, those of (B, D) in turn with Gaussian noise added, on the same device."""
    rows = torch.arange(count) % len(features)
    noise = torch.randn(count, features.shape[1], generator=generator).to(features.device)
    return features[rows] + 0.1 * features.std() * noise


def _scattered(few: Features, count: int, generator: torch.Generator) -> Features:
    logits, spatial = (None if x is None else scattered(x, count, generator) for x in (few.logits, few.spatial))
    return Features(scattered(few.pool, count, generator), logits, spatial)


def now() -> float:
    """Returns the time in seconds after all work of the device is finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _forward(extractor: FeatureExtractor, images: Tensor, count: int) -> float:
    """Returns the seconds per image."""
    start, done = now(), 0
    while done < count:
        extractor(images)
        done += len(images)
    return (now() - start) / done


class _Precomputed:
    """A stand-in for an extractor that returns precomputed features."""

    def __init__(self, extractor: FeatureExtractor, batches: Iterable[Features]) -> None:
        self.extractor, self.batches = extractor, iter(batches)

    def __call__(self, images: Tensor) -> Features:
        return next(self.batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.extractor, name)


def _arithmetic(evaluator: Evaluator, images: Tensor, batches: Sequence[Features]) -> tuple[float, float, list[str]]:
    """Seconds of all updates and of the end, and what was measured."""
    evaluator.features = _Precomputed(evaluator.features, batches)
    start = now()
    for _ in batches:
        evaluator.update(images)
    middle = now()
    metrics = evaluator.compute()
    return middle - start, now() - middle, sorted(metrics)


def _frechet(generator: torch.Generator, *, with_scipy: bool) -> dict[str, Any]:
    """Two Gaussians of 2048 dimensions, of 4096 samples each."""
    statistics = []
    for scale in (1.0, 1.1):
        mixed = torch.randn(FEATURES, FEATURES, generator=generator) * (0.02 * scale)
        made = GaussianStatistics(num_features=FEATURES)
        made.update(torch.randn(2 * FEATURES, FEATURES, generator=generator) @ mixed)
        statistics.append(made)
    a, b = (one.covariance.numpy() for one in statistics)
    start = time.perf_counter()
    distance = frechet_distance(*statistics)
    result: dict[str, Any] = {"frechet_seconds": time.perf_counter() - start, "frechet": distance}
    if with_scipy:
        from scipy.linalg import sqrtm

        start = time.perf_counter()
        root = sqrtm(a @ b)
        means = (statistics[0].mean - statistics[1].mean).square().sum().item()
        theirs = means + a.trace() + b.trace() - 2 * root.trace().real
        result |= {"scipy_seconds": time.perf_counter() - start, "relative_difference": abs(distance - theirs) / theirs}
    return result
