"""job=benchmark_metrics: an evaluation's seconds beside those of the feature network's forward passes alone.

The images are noise, the reference's features scattered about those of a few, and the weights whatever
metrics.features says (file=null: random ones): time does not depend on them. Both sides are run in turns over the same
batches, so that a machine's mood meets both alike.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from pixelflow.files import write_json
from pixelflow.jobs.build import Config, assets_root, pick_device
from pixelflow.launch.provenance import versions
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import FeatureExtractor
from pixelflow.metrics.frechet import GaussianStatistics, frechet_distance
from pixelflow.metrics.reference import KEPT, Reference

FEATURES = 2048


def run(config: Config, overrides: list[str]) -> None:
    """Writes job.output and prints it."""
    job, device = config["job"], pick_device(config["trainer"]["device"])
    extractor = instantiate(config["metrics"]["features"])
    extractor.load(assets_root(config), device)
    generator = torch.Generator().manual_seed(0)
    shape = (job["images"], 3, job["side"], job["side"])
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    reference = _reference(extractor, images[: job["batch_size"]], generator)
    result = _passes_and_evaluation(Evaluator(features=extractor, reference=reference), images, job["batch_size"])
    result |= _frechet(generator, with_scipy=job["scipy"])
    result |= {"features": extractor.name, "images": job["images"], "side": job["side"], "device": str(device)}
    result |= {"threads": torch.get_num_threads(), "load_average": os.getloadavg()[0], "versions": versions()}
    write_json(Path(job["output"]), result)
    for key, value in result.items():
        print(f"{key:26} {value:.4g}" if isinstance(value, float) else f"{key:26} {value}")
    print(f"written: {job['output']}")


def _reference(extractor: FeatureExtractor, images: torch.Tensor, generator: torch.Generator) -> Reference:
    """With as many features as a real one keeps: precision and recall cost what they do."""
    few = Reference.from_images(extractor, [images], name="noise")
    assert few.pool is not None
    rows = torch.arange(KEPT) % len(few.pool)
    scattered = few.pool[rows] + 0.1 * few.pool.std() * torch.randn(KEPT, few.pool.shape[1], generator=generator)
    return replace(few, pool=scattered)


def _passes_and_evaluation(evaluator: Evaluator, images: torch.Tensor, batch_size: int) -> dict[str, Any]:
    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    alone = collected = 0.0
    for number, batch in enumerate(images.split(batch_size)):
        # Who comes first takes turns, too: the second finds warm caches.
        for mine in (number % 2, 1 - number % 2):
            start = now()
            if mine == 0:
                evaluator.features(batch)
                alone += now() - start
            else:
                evaluator.update(batch)
                collected += now() - start
    start = now()
    metrics = evaluator.compute()
    computed = now() - start
    return {
        "forward_seconds": alone, "update_seconds": collected, "compute_seconds": computed,
        "update_over_forward": collected / alone, "whole_over_forward": (collected + computed) / alone,
        "metrics": sorted(metrics),
    }  # fmt: skip


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
