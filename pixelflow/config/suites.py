"""Builds the metrics that a config describes, and checks that everything they need exists."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pixelflow.assets import ASSETS, COMMAND
from pixelflow.conf_dir import option_files
from pixelflow.config.build import assets_root
from pixelflow.config.job import Config
from pixelflow.config.schema import build
from pixelflow.config.search_path import config_folders
from pixelflow.data.spec import ImageSpec
from pixelflow.errors import UserError
from pixelflow.metrics import references, suite
from pixelflow.metrics.clip import read_prompts
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import FeatureExtractor
from pixelflow.metrics.reference import Reference
from pixelflow.metrics.suite import WITH_FEATURES, Suite

LEAST = 10
"""Smallest number of images that is measured. Published numbers need 50,000."""


def require_metrics(config: Config, count: int) -> None:
    """Checks that images can be measured.

    Args:
        config: A resolved config.
        count: Number of images.

    Raises:
        UserError: There are too few images, or a file or prompts are missing.
    """
    metrics = config["metrics"]
    if count < LEAST:
        raise UserError(f"{count} images are too few to be measured: at least {LEAST}; published numbers take 50,000")
    path, root = _reference_path(config), assets_root(config)
    if missing := [file for file in needed_files(config) if not (root / file).is_file()]:
        raise UserError(
            f"assets.root={config['assets']['root']} lacks {', '.join(missing[:2])}"
            + (f" and {len(missing) - 2} more" if len(missing) > 2 else "")
            + f"; `{COMMAND}` with the options metrics, objective and assets of this command fetches what is published"
        )
    if path is not None and not path.exists():
        raise UserError(f"metrics.reference={metrics['reference']}: {path} does not exist")
    if "clip_score" in metrics["also"] and (there := len(_prompts(config))) < count:
        raise UserError(f"metrics.prompts={metrics['prompts']} holds {there} prompts for {count} images")


def check_metrics(config: Config) -> None:
    """Checks that the metrics can measure images like those of the data: their kind, size and channels.

    The size of given samples is not known here; it is compared with the reference when they are measured.

    Raises:
        UserError: They cannot; the message names the keys of both, and the options of the group `metrics` that can.
    """
    spec, key = build(config, "data").spec, "metrics.features._target_"
    given = config["samples"] is not None
    if reason := build(config, "metrics.features").unfit(**_form(spec)):
        fitting = " or ".join(f"metrics={name}" for name in _fitting(config, _form(spec)))
        own = "" if spec.name == "digits" else "; if these are digits, data.name=digits"
        raise UserError(
            f"{key}={config['metrics']['features']['_target_']} does not fit data.name={spec.name}, "
            f"data.image_size={spec.image_size}: {reason}; use {fitting or 'other metrics'}{own}"
        )
    path = _reference_path(config)
    side = None if path is None or given else references.side_of(path)
    if side not in (None, spec.image_size):
        known = [file for file, asset in ASSETS.items() if asset.image_size == spec.image_size]
        raise UserError(
            f"metrics.reference={config['metrics']['reference']} has images of {side} pixels, and "
            f"data.image_size={spec.image_size}: use {', '.join([*known, 'train', 'held_out'])} or a file of that size"
        )


def _form(spec: ImageSpec) -> dict[str, Any]:
    return {"data": spec.name, "image_size": spec.image_size, "channels": spec.channels}


def _fitting(config: Config, form: Config) -> list[str]:
    """Returns the options of the group `metrics` whose main network can measure such images."""
    fitting = []
    for name, file in option_files("metrics", config_folders()).items():
        features = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("features")
        with suppress(UserError):  # an option whose parts are not trusted, or that is incomplete, is no choice
            if features and not build({**config, "metrics": {"features": features}}, "metrics.features").unfit(**form):
                fitting.append(name)
    return fitting


def needed_files(config: Config) -> list[str]:
    """Returns the files in the assets folder that the metrics read."""
    keys = ["metrics.features", *(key for key in _additional(config).values() if key is not None)]
    files = [file for key in keys for file in build(config, key).needs()]
    path, root = _reference_path(config), assets_root(config)
    if path is not None and path.parent == root:
        files.append(path.name)
    return list(dict.fromkeys(files))


def build_suite(config: Config, device: torch.device) -> Suite:
    """Builds all metrics of a config.

    Args:
        config: A resolved config.
        device: Device of the feature networks.

    Raises:
        UserError: The weights of a feature network are missing or damaged, or a reference cannot be read or does not
            fit its network.
    """
    return suite.build_suite(
        _loaded(config, "metrics.features", device),
        {name: None if key is None else _loaded(config, key, device) for name, key in _additional(config).items()},
        reference=lambda extractor: _reference(config, extractor),
        prompts=lambda: _prompts(config),
    )


def build_evaluator(config: Config, device: torch.device) -> Evaluator:
    """Builds the main evaluator alone, for jobs that compare one number; see `build_suite`."""
    features = _loaded(config, "metrics.features", device)
    return Evaluator(features=features, reference=_reference(config, features))


def _additional(config: Config) -> dict[str, str | None]:
    """Returns the keys of the extractors of the additional metrics, or None for a metric of the main extractor."""
    also = config["metrics"]["also"]
    return {name: None if name in WITH_FEATURES else f"metrics.extractors.{name}" for name in also}


def _loaded(config: Config, key: str, device: torch.device) -> Any:
    extractor: FeatureExtractor = build(config, key)
    extractor.load(assets_root(config), device)
    return extractor


def _reference_path(config: Config) -> Path | None:
    try:
        return references.reference_path(config["metrics"]["reference"], assets_root(config))
    except UserError as error:
        raise UserError(f"metrics.{error}") from None


def _reference(config: Config, extractor: FeatureExtractor) -> Reference:
    def split_images(split: str) -> tuple[str, Tensor]:
        data = build(config, "data")
        return data.spec.name, data.images(split)[0]

    return references.load_reference(
        config["metrics"]["reference"], extractor, assets=assets_root(config), split_images=split_images
    )


def _prompts(config: Config) -> list[str]:
    if config["metrics"]["prompts"] is None:
        raise UserError("metrics.also=[clip_score] needs metrics.prompts=FILE, one prompt a line, in the images' order")
    try:
        return read_prompts(Path(config["metrics"]["prompts"]).expanduser())
    except UserError as error:
        raise UserError(f"metrics.prompts: {error}") from None
