"""Everything that can be wrong with a config, found before anything is written, downloaded or allocated."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import instantiate

from pixelflow.config.build import Config, pick_device, prepare_settings, sampler_settings
from pixelflow.config.schema import check_group, check_type
from pixelflow.config.suites import LEAST, WITH_FEATURES
from pixelflow.config.validate_training import check_benchmark, check_training
from pixelflow.sampling.produce import parse_classes
from pixelflow.sampling.speed import speed_up
from pixelflow.training.weights import check_name

GROUPS: dict[str, tuple[str, ...]] = {
    "data": (),
    "backbone": (),
    "conditioning": (),
    "prediction": (),
    "cascade": (),
    "timesteps": (),
    "objective": (),
    "optimizer": ("params",),
    "ema": (),
    "trainer": (),
    "solver": (),
    "guidance": (),
    "site": (),
}
"""Groups with a `_target_`, and the arguments that the code passes to it itself."""

TYPES: dict[str, Any] = {
    "experiment": str,
    "seed": int,
    "runs_dir": str,
    "checkpoint": str | None,
    "init_from": str | None,
    "samples": str | None,
    "rerun": bool,
    "sampler.num_samples": int,
    "sampler.seed": int,
    "sampler.weights": str,
    "sampler.batch_size": int | list[int],
    "sampler.classes": str | list[int],
    "sampler.format": Literal["npz", "png", "shards"],
    "sampler.per_shard": int,
    "sampler.fixed_batch": int | None,
    "sampler.compile": bool,
    "sampler.cuda_graphs": bool,
    "sampler.tune_attention": bool,
    "sampler.cache_every": int,
    "sampler.trajectories": int,
    "metrics.reference": str,
    "metrics.also": list[str],
    "metrics.prompts": str | None,
    "assets.root": str,
    "axes": list[str],
    "sweep": str | None,
    "run_folder": str | None,
    "dry_run": bool,
    "watch": bool,
    "seeds": int | list[int] | None,
    "settings": list[dict[str, Any]],
    "tracking.mlflow": bool,
    "tracking.uri": str | None,
}

JOB_OPTIONS: dict[str, dict[str, Any]] = {
    "benchmark": {
        "part": Literal["sampling", "training", "logging"], "images": int, "repeats": int, "machine": str | None,
        "output": str, "estimate": bool, "devices": int | None, "tflops": float, "utilisation": float,
    },
    "benchmark_data": {
        "images": int, "batches": int, "height": int, "width": int, "image_size": int, "quality": int,
        "batch_size": int, "workers": int, "rounds": int, "output": str,
    },
    "benchmark_metrics": {"images": int, "passes": int, "side": int, "batch_size": int, "scipy": bool, "output": str},
    "data": {"samples": int, "batches": int, "batch_size": int, "output": str},
    "evaluate": {"images": bool},
    "fetch_assets": {"files": list[str]},
    "prepare": {
        "output": str | None, "split": Literal["train", "held_out"], "size": int | None,
        "format": Literal["jpg", "png", "webp"], "quality": int, "samples_per_shard": int, "workers": int,
        "max_bad_share": float,
    },
    "table": {"source": Literal["folders", "mlflow"], "record": bool},
}  # fmt: skip
"""The types of the jobs' own options; numbers count something, so they are 1 or more."""

MAY_BE_ZERO = ("workers",)

WITHOUT_MODEL = ("benchmark_data", "benchmark_metrics", "data", "fetch_assets", "prepare", "table")
"""Jobs for which the other groups need not fit each other."""

USES_DATA = ("train", "pipeline", "evaluate", "data", "prepare")
"""Jobs that read the data."""


def validate(config: Config) -> None:
    """Raise ValueError with the key, the value and what would be accepted."""
    _check_names(config)
    for key, annotation in TYPES.items():
        check_type(_select(config, key), annotation, key)
    for name, given in GROUPS.items():
        check_group(config[name], name, given=given)
    _check_metrics(config)
    _check_sampler(config)
    _check_job(config)
    if config["job"]["name"] in WITHOUT_MODEL:
        return
    _check_inputs(config)
    _check_parts(config)
    check_training(config)
    pick_device(config["trainer"]["device"])


def _check_names(config: Config) -> None:
    """`+key=value` can add what nothing reads."""
    known = {*GROUPS, *TYPES, "job", "paper", "metrics.features", "metrics.extractors"}
    sections = {key.split(".")[0] for key in known if "." in key}
    present = [key for key in config if key not in sections]
    present += [f"{section}.{key}" for section in sections for key in config[section]]
    for key in present:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"unknown option {key}" + (f"; did you mean {close[0]}?" if close else ""))


def _check_metrics(config: Config) -> None:
    metrics = config["metrics"]
    check_group(metrics["features"], "metrics.features", given=("device",))
    for name, node in metrics["extractors"].items():
        check_group(node, f"metrics.extractors.{name}")
    accepted = [*WITH_FEATURES, *metrics["extractors"]]
    for name in metrics["also"]:
        if name not in accepted:
            raise ValueError(f"metrics.also={metrics['also']}: {name} is none of {', '.join(accepted)}")


def _check_sampler(config: Config) -> None:
    sampler = config["sampler"]
    _with_key(lambda: check_name(sampler["weights"]), sampler, "sampler")
    for key, least in {"num_samples": 1, "per_shard": 1, "fixed_batch": 1, "cache_every": 1, "trajectories": 0}.items():
        if sampler[key] is not None and sampler[key] < least:
            raise ValueError(f"sampler.{key}={sampler[key]} must be at least {least}")
    sizes = sampler["batch_size"]
    if not sizes or min(sizes if isinstance(sizes, list) else [sizes]) < 1:
        raise ValueError(f"sampler.batch_size={sizes} must be at least 1")
    stages = config["cascade"]["num_stages"]
    if isinstance(sizes, list) and len(sizes) != stages:
        raise ValueError(f"sampler.batch_size={sizes} has {len(sizes)} entries, but the cascade has {stages} stages")
    try:
        parse_classes(sampler["classes"], config["data"]["num_classes"])
    except ValueError as error:
        raise ValueError(f"sampler.{error}") from None
    for key in ("cuda_graphs", "tune_attention"):
        if sampler[key] and pick_device(config["trainer"]["device"]).type != "cuda":
            raise ValueError(f"sampler.{key}=true needs a CUDA device; leave it out here")


def _check_parts(config: Config) -> None:
    """Build every part (the backbone without memory) and check what must agree."""
    cascade = _build(config, "cascade")
    for name in GROUPS:
        if name not in ("cascade", "backbone", "optimizer", "objective"):
            _build(config, name)
    solver = _build(config, "solver")
    objective = _build(config, "objective")
    with torch.device("meta"):
        backbone = _build(config, "backbone")
    if config["sampler"]["cache_every"] > 1:
        if solver.adaptive:
            raise ValueError(
                f"sampler.cache_every={config['sampler']['cache_every']} needs a solver with fixed steps: a cached "
                "velocity would mislead the error control; use solver=euler, heun or adams_bashforth"
            )
        settings = sampler_settings(config)
        _with_key(lambda: speed_up(backbone, cascade, settings, torch.device("meta")), config["sampler"], "sampler")
    if cascade.kickoff % backbone.patch_size:
        size = config["data"]["image_size"]
        most = max((s for s in range(1, 13) if size % (backbone.patch_size << (s - 1)) == 0), default=1)
        raise ValueError(
            f"backbone.patch_size={backbone.patch_size} does not divide the kickoff resolution {cascade.kickoff} "
            f"(data.image_size={size}, cascade.num_stages={cascade.num_stages}); "
            f"use at most cascade.num_stages={most}, or a smaller patch"
        )
    if backbone.fixed_resolution is not None and cascade.num_stages > 1:
        free = ", or backbone.position_table=false" if "position_table" in config["backbone"] else ""
        raise ValueError(
            f"cascade.num_stages={cascade.num_stages} needs a backbone for several resolutions, "
            f"but this one is fixed to {backbone.fixed_resolution} pixels: use cascade=single{free}"
        )
    if config["data"].get("captions") and not _build(config, "conditioning").reads_captions:
        raise ValueError(
            f"data.captions={config['data']['captions']}: {config['conditioning']['_target_'].rpartition('.')[2]} does "
            "not read captions, and there is no text conditioning yet; use data with classes and data.captions={}"
        )
    try:
        objective.check_backbone(backbone)
    except ValueError as error:
        raise ValueError(f"objective.{error}") from None


def _check_job(config: Config) -> None:
    job = config["job"]
    for name, annotation in JOB_OPTIONS.get(job["name"], {}).items():
        check_type(job[name], annotation, f"job.{name}")
    if job["name"] == "prepare":
        _check_prepare(config)
    for name, annotation in JOB_OPTIONS.get(job["name"], {}).items():
        if annotation is int and name not in MAY_BE_ZERO and job[name] < 1:
            raise ValueError(f"job.{name}={job[name]} must be at least 1")
    if job["name"] == "benchmark":
        check_benchmark(config)
    if job["name"] == "benchmark_metrics" and job["images"] < LEAST:
        raise ValueError(f"job.images={job['images']} must be at least {LEAST}")
    if job["name"] in ("prepare", "data", "benchmark_data"):
        _build(config, "data")


def _check_prepare(config: Config) -> None:
    job = config["job"]
    if not job["output"]:
        raise ValueError("job=prepare needs job.output=FOLDER, where the shards go")
    if job["workers"] < 0:
        raise ValueError(f"job.workers={job['workers']} must be 0 or more")
    if job["text_encoder"]:
        check_group(job["text_encoder"], "job.text_encoder")
    _build(config, "data")
    _with_key(lambda: prepare_settings(config), job, "job")


def check_data(config: Config) -> None:
    """Raise ValueError unless the data are where the config says; reads a folder or an index, no images."""
    if config["job"]["name"] in USES_DATA:
        data = _build(config, "data")
        _with_key(data.check, config["data"], "data")


def _build(config: Config, name: str) -> Any:
    """Constructors name their own arguments; the user needs the group in front."""
    return _with_key(lambda: instantiate(config[name]), config[name], name)


def _with_key(build: Callable[[], Any], node: Mapping[str, Any], group: str) -> Any:
    try:
        return build()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # Hydra wraps what a constructor raises
            cause = cause.__cause__
        if not isinstance(cause, ValueError):
            raise
        message = str(cause)
        argument = message.split("=")[0].split(" ")[0].rstrip(":,")
        prefix = f"{group}." if argument.split(".")[0] in node else f"{group}: "
        raise ValueError(prefix + message) from None


def _check_inputs(config: Config) -> None:
    job, checkpoint, samples = config["job"]["name"], config["checkpoint"], config["samples"]
    if job in ("sample", "quality") and checkpoint is None:
        raise ValueError(f"job={job} needs checkpoint=PATH, a folder like RUN/checkpoints/step_00002000")
    if job == "evaluate" and (checkpoint is None) == (samples is None):
        raise ValueError("job=evaluate needs one of checkpoint=PATH and samples=FOLDER_OR_NPZ")
    if job in ("train", "pipeline") and (checkpoint or samples):
        raise ValueError(f"checkpoint and samples are for job=sample and job=evaluate; job={job} finds its own")
    if samples is not None and not Path(samples).exists():
        raise ValueError(f"samples={samples} does not exist")


def _select(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
