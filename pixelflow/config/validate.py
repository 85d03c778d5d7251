"""Checks a config completely before anything is written, downloaded or allocated."""

from __future__ import annotations

import difflib
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pixelflow.config.accepted import Accepted
from pixelflow.config.agreement import build_on_meta, check_agreement, check_contracts, check_shapes, check_terms
from pixelflow.config.build import Config, pick_device, sampler_settings
from pixelflow.config.job import Job
from pixelflow.config.schema import build, check_group, hint, read_record, trusted, with_key
from pixelflow.config.sections import SECTIONS, TopLevel, read_sampler
from pixelflow.config.suites import check_metrics
from pixelflow.config.validate_training import check_optimizer, check_start, check_training
from pixelflow.config.values import check_values
from pixelflow.errors import UserError
from pixelflow.metrics.suite import WITH_FEATURES
from pixelflow.runs.places import check_path, check_writable
from pixelflow.sampling.speed import speed_up
from pixelflow.training.weights import bare_backbone

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


def validate(config: Config, job: Job, accepted: Accepted | None = None) -> None:
    """Checks a resolved config for a job.

    Args:
        config: The config.
        job: The job.
        accepted: The checks that need not be repeated, for the runs of a sweep.

    Raises:
        UserError: The config is invalid; the message names the key, the value and what is accepted.
    """
    accepted = accepted or Accepted()
    check_values(config)
    _check_sections(config)
    for name, given in GROUPS.items():
        if not accepted.again("group", name, config[name], trusted(config)):
            check_group(config[name], name, given=given, trust=trusted(config))
    if not accepted.again("metrics", config["metrics"], trusted(config)):
        _check_metrics(config)
    build(config, "data")
    _check_sampler(config)
    options = job.read(config["job"])
    if (output := getattr(options, "output", None)) is not None:
        check_path(output, "job.output")
    job.check(config, options)
    if "model" not in job.needs:
        return
    _check_inputs(config, job)
    backbone = _check_parts(config, accepted)
    if job.makes_run_folder:
        check_training(config)
        if not accepted.again("init_from", config["init_from"], config["backbone"]):
            check_start(config, backbone)
    pick_device(config["trainer"]["device"])


def _check_sections(config: Config) -> None:
    """Checks the keys without `_target_`. `+key=value` can add what nothing reads."""
    parts = (*GROUPS, *SECTIONS, "job")
    top = {key: value for key, value in config.items() if key not in parts}
    known = [field.name for field in fields(TopLevel)]
    for key in top:
        if key not in known:
            close = difflib.get_close_matches(key, [*known, *parts], n=1)
            raise UserError(f"unknown option {key}" + (f"; did you mean {close[0]}?" if close else ""))
    if isinstance(config["paper"], bool):
        raise UserError(
            "paper holds the published rows of a recipe; job=table job.paper=true writes a table for papers"
        )
    read_record(TopLevel, top)
    for key, value in (config.get("chart") or {}).items():
        # The key may belong to some of a sweep's settings only, but its section exists in all.
        if key in ("x", "series") and value is not None and value.split(".")[0] not in config:
            raise UserError(f"chart.{key}={value} is no config key; {hint(value.split('.')[0], config)}")
    for name, record in SECTIONS.items():
        read_record(record, config.get(name), name)


def _check_metrics(config: Config) -> None:
    metrics = config["metrics"]
    check_group(metrics["features"], "metrics.features", given=("device",), trust=trusted(config))
    for name, node in metrics["extractors"].items():
        check_group(node, f"metrics.extractors.{name}", trust=trusted(config))
    accepted = [*WITH_FEATURES, *metrics["extractors"]]
    for name in metrics["also"]:
        if name not in accepted:
            raise UserError(f"metrics.also={metrics['also']}: {name} is none of {', '.join(accepted)}")


def _check_sampler(config: Config) -> None:
    sampler = read_sampler(config)
    sizes = sampler.batch_size
    stages = config["cascade"]["num_stages"]
    if isinstance(sizes, list) and len(sizes) != stages:
        raise UserError(f"sampler.batch_size={sizes} has {len(sizes)} entries, but the cascade has {stages} stages")
    with_key(lambda: sampler.images(config["data"]["num_classes"]), config["sampler"], "sampler")
    for key in ("cuda_graphs", "tune_attention"):
        if getattr(sampler, key) and pick_device(config["trainer"]["device"]).type != "cuda":
            raise UserError(f"sampler.{key}=true needs a CUDA device; leave it out here")


def _check_parts(config: Config, accepted: Accepted) -> Any:
    """Builds every part, the backbone without memory, checks that they fit each other, and returns the backbone."""
    check_agreement(config)
    parts = {name: build(config, name) for name in GROUPS if name not in ("backbone", "optimizer")}
    cascade, solver, objective = parts["cascade"], parts["solver"], parts["objective"]
    check_optimizer(config)
    if config["checkpoint"] is None:
        backbone: Any = accepted.made("backbone", lambda: build_on_meta(config), config["backbone"], trusted(config))
    else:  # its config may describe a backbone of any size
        weights = config["sampler"]["weights"]
        backbone = bare_backbone(lambda: build(config, "backbone"), config["checkpoint"], weights)
    check_contracts(config, parts | {"backbone": backbone})
    settings = sampler_settings(config)
    if settings.cache_every > 1:
        if solver.adaptive:
            raise UserError(
                f"sampler.cache_every={settings.cache_every} needs a solver with fixed steps: a cached "
                "velocity would mislead the error control; use solver=euler, heun or adams_bashforth"
            )
        with_key(
            lambda: speed_up(deepcopy(backbone), cascade, settings, torch.device("meta")), config["sampler"], "sampler"
        )
    if cascade.kickoff % backbone.patch_size:
        size = config["data"]["image_size"]
        most = max((s for s in range(1, 13) if size % (backbone.patch_size << (s - 1)) == 0), default=1)
        raise UserError(
            f"backbone.patch_size={backbone.patch_size} does not divide the kickoff resolution {cascade.kickoff} "
            f"(data.image_size={size}, cascade.num_stages={cascade.num_stages}); "
            f"use at most cascade.num_stages={most}, or a smaller patch"
        )
    if backbone.fixed_resolution is not None and cascade.num_stages > 1:
        free = ", or backbone.image_size=null" if "image_size" in config["backbone"] else ""
        raise UserError(
            f"cascade.num_stages={cascade.num_stages} needs a backbone for several resolutions, "
            f"but this one is fixed to {backbone.fixed_resolution} pixels: use cascade=single{free}"
        )
    if config["data"].get("captions") and not parts["conditioning"].reads_captions:
        raise UserError(
            f"data.captions={config['data']['captions']}: {config['conditioning']['_target_'].rpartition('.')[2]} does "
            "not read captions, and there is no text conditioning yet; use data with classes and data.captions={}"
        )
    try:
        objective.check_backbone(backbone)
    except ValueError as error:
        raise UserError(f"objective.{error}") from None
    images = (config["data"]["channels"], config["data"]["image_size"], config["cascade"])
    of_weights = (config["backbone"], config["checkpoint"], objective.layers)
    if not accepted.again("shapes", *of_weights, images):
        check_shapes(config, backbone, cascade, objective.layers)
    if not accepted.again("terms", config["objective"], config["prediction"], images):
        check_terms(config, objective, cascade, parts["prediction"])
    return backbone


def check_data(config: Config, job: Job) -> None:
    """Looks for the data if the job needs them, and whether the metrics fit and runs_dir can be written.

    A folder or an index of the data is read, no images.

    Raises:
        UserError: The data are not where the config says, the metrics of a job that measures cannot measure them, or
            runs_dir cannot be written.
    """
    if "data" in job.needs:
        data = build(config, "data")
        with_key(data.check, config["data"], "data")
    if "metrics" in job.needs:
        check_metrics(config)
    if job.makes_run_folder or config["checkpoint"] is not None:
        check_writable(config["runs_dir"], "runs_dir")


def _check_inputs(config: Config, job: Job) -> None:
    checkpoint, samples = config["checkpoint"], config["samples"]
    if "checkpoint" in job.needs and checkpoint is None:
        raise UserError(f"job={job.name} needs checkpoint=PATH, a run folder or a checkpoint in one")
    if "checkpoint-or-samples" in job.needs and (checkpoint is None) == (samples is None):
        raise UserError(f"job={job.name} needs one of checkpoint=PATH and samples=FOLDER_OR_NPZ")
    if job.makes_run_folder and (checkpoint or samples):
        raise UserError(f"checkpoint and samples are for job=sample and job=evaluate; job={job.name} finds its own")
    if (checkpoint or samples) and config["sampler"]["step"] is not None:
        raise UserError(
            f"sampler.step={config['sampler']['step']} chooses a checkpoint for job=pipeline; leave it out with "
            "checkpoint=PATH and samples=PATH, which name what is measured"
        )
    if samples is not None and not Path(samples).exists():
        raise UserError(f"samples={samples} does not exist")
