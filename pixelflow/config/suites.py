"""What config.metrics asks for: extractors, references, and everything they need before the first image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from pixelflow.assets import COMMAND, missing_line
from pixelflow.config.build import Config, assets_root
from pixelflow.config.references import load_reference, reference_path
from pixelflow.errors import UserError
from pixelflow.metrics.clip import ClipScore, read_prompts
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import FeatureExtractor
from pixelflow.metrics.suite import Suite

LEAST = 10
"""Images below which no number is worth the name; the papers take 50,000."""
WITH_FEATURES = ("kid", "fid_infinity")
"""What `metrics.also` may name that needs no network of its own."""


def require_metrics(config: Config, count: int) -> None:
    """Raise ValueError naming everything that measuring `count` images needs and that is not there."""
    metrics = config["metrics"]
    if count < LEAST:
        raise ValueError(f"{count} images are too few to be measured: at least {LEAST}; published numbers take 50,000")
    path, root = reference_path(config), assets_root(config)
    files = needed_files(config)
    lines = [line for file in files if (line := missing_line(root, file))]
    if lines:
        raise ValueError(
            "; ".join(lines[:2])
            + (f"; and {len(lines) - 2} more" if len(lines) > 2 else "")
            + f"; `{COMMAND} metrics=...`, with the options of this command, fetches what has an "
            f"address (assets.root={config['assets']['root']})"
        )
    if path is not None and not path.exists():
        raise ValueError(f"metrics.reference={metrics['reference']}: {path} does not exist")
    if "clip_score" in metrics["also"] and (there := len(_prompts(config))) < count:
        raise ValueError(f"metrics.prompts={metrics['prompts']} holds {there} prompts for {count} images")


def needed_files(config: Config) -> list[str]:
    """The files in the assets folder that the metrics read."""
    files = [file for node in _extractor_nodes(config) for file in instantiate(node).needs()]
    path, root = reference_path(config), assets_root(config)
    if path is not None and path.parent == root:
        files.append(path.name)
    return list(dict.fromkeys(files))


def build_suite(config: Config, device: torch.device) -> Suite:
    """Raises ValueError where a file is missing or a reference does not fit."""
    metrics, also = config["metrics"], config["metrics"]["also"]
    features = _loaded(config, metrics["features"], device)
    wanted = [*features.metrics, *(name for name in WITH_FEATURES if name in also and name not in features.metrics)]
    first = Evaluator(features=features, reference=load_reference(config, features), metrics=wanted)
    more: list[Evaluator | ClipScore] = []
    for name in also:
        if name in WITH_FEATURES:
            continue
        extractor = _loaded(config, metrics["extractors"][name], device)
        if name == "clip_score":
            more.append(ClipScore(encoder=extractor, prompts=_prompts(config)))
        else:
            more.append(Evaluator(features=extractor, reference=load_reference(config, extractor)))
    return Suite(first, more)


def build_evaluator(config: Config, device: torch.device) -> Evaluator:
    """The main evaluator alone, for jobs that compare one number."""
    features = _loaded(config, config["metrics"]["features"], device)
    return Evaluator(features=features, reference=load_reference(config, features))


def _extractor_nodes(config: Config) -> list[Any]:
    metrics = config["metrics"]
    return [metrics["features"], *(metrics["extractors"][n] for n in metrics["also"] if n not in WITH_FEATURES)]


def _loaded(config: Config, node: Mapping[str, Any], device: torch.device) -> Any:
    extractor: FeatureExtractor = instantiate(node)
    extractor.load(assets_root(config), device)
    return extractor


def _prompts(config: Config) -> list[str]:
    if config["metrics"]["prompts"] is None:
        raise ValueError(
            "metrics.also=[clip_score] needs metrics.prompts=FILE, one prompt a line, in the images' order"
        )
    try:
        return read_prompts(Path(config["metrics"]["prompts"]).expanduser())
    except UserError as error:
        raise UserError(f"metrics.prompts: {error}") from None
