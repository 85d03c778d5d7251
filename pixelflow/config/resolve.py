"""Turns the config that Hydra composed into the one that a job reads: plain, resolved and checked."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

from pixelflow.conf_dir import option_files
from pixelflow.config.accepted import Accepted
from pixelflow.config.data_sizes import find_sizes
from pixelflow.config.debug import debugged, refuse_debug
from pixelflow.config.job import Job
from pixelflow.config.schema import build, option_names, trusted
from pixelflow.config.search_path import config_folders
from pixelflow.config.validate import GROUPS, validate
from pixelflow.errors import UserError
from pixelflow.flow.cascade import stages_from_kickoff
from pixelflow.parts import check_targets
from pixelflow.runs.identity import CALL_SECTIONS, EVALUATION_KEYS, MACHINE_KEYS, STEP_KEY, TRAINING_SECTIONS
from pixelflow.runs.places import check_path
from pixelflow.training.locate import find_checkpoint
from pixelflow.training.reader import CheckpointError

logger = logging.getLogger(__name__)

RESOLVERS = ("stages_from_kickoff",)
"""The functions that a config may call, as `${name:...}`."""
OmegaConf.register_new_resolver(RESOLVERS[0], stages_from_kickoff, replace=True)

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

FIXED_BY_TRAINING = ("experiments", *(name for name in TRAINING_SECTIONS if name not in ("trainer", "init_from")))
"""Sections that are read from the checkpoint."""
OF_THE_CALL = tuple(section for section in CALL_SECTIONS if section not in ("experiment", "paper", "choices"))
"""Sections that are never read from a checkpoint."""


def resolve(
    config: DictConfig, overrides: list[str], job: Job, *, elsewhere: bool = False, accepted: Accepted | None = None
) -> dict[str, Any]:
    """Returns the resolved, valid config of a command.

    With checkpoint=PATH it is the config that the checkpoint was trained with, changed by the overrides. What it leaves
    open about its data (see `pixelflow.config.data_sizes`) is looked for, and replaced in `config`.

    Args:
        config: The config as Hydra composed it.
        overrides: The overrides that the user typed.
        job: The declaration of the job.
        elsewhere: Whether the job runs on another machine, with GPUs, so that the device is not checked here.
        accepted: The checks that need not be repeated, for the runs of a sweep.

    Raises:
        UserError: The config is invalid, or the checkpoint cannot be read.
    """
    trust = _typed_trust(config, overrides)
    if config.checkpoint is not None and not isinstance(config.checkpoint, str):
        raise UserError(f"checkpoint={config.checkpoint} must be the path of a run or of a checkpoint")
    if config.checkpoint is not None:
        config = _with_checkpoint(config, overrides, job)
    elif job.makes_run_folder and isinstance(config.init_from, str):
        _find_start(config, "init_from")
    config = debugged(config)
    _refuse_resolvers(config)
    accepted = accepted or Accepted()
    find_sizes(config, accepted)
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    check_targets(plain, trust=trust)
    _drop_leftovers(plain, typed={override.key_or_group for override in parse(overrides)})
    if not accepted.again({**plain, "seed": type(plain.get("seed"))}):  # any whole number is a seed
        validate(without_gpu(plain) if elsewhere else plain, job, accepted)
    return plain | {"overrides": list(overrides)}


def _typed_trust(config: DictConfig, overrides: list[str]) -> list[str]:
    """Returns `trust`, which is what the user typed: a file that came with a checkpoint must not extend it."""
    trust: Any = OmegaConf.to_container(config.trust) if OmegaConf.is_config(config.trust) else config.trust
    if not isinstance(trust, list) or not all(isinstance(name, str) and _MODULE.fullmatch(name) for name in trust):
        raise UserError(f"trust={trust!r} must be a list of modules, such as trust=[mylib]")
    if trust and not any(override.key_or_group == "trust" for override in parse(overrides)):
        raise UserError(
            f"trust={trust} is set in a file; it counts on the command line only: trust=[{','.join(trust)}]"
        )
    for name in trust:
        if find_spec(name.partition(".")[0]) is None:  # which does not import a module without a dot in its name
            raise UserError(f"trust={trust}: there is no module {name}; install it, or run where it can be imported")
    return trust


def _refuse_resolvers(config: DictConfig) -> None:
    """Raises UserError for `${name:...}` of another name than our own, such as one that reads the environment."""
    for key, text in _texts(OmegaConf.to_container(config, resolve=False), ""):
        for name in _functions(text):
            if name not in RESOLVERS:
                raise UserError(
                    f"{key}={text} calls {name}: a config may only refer to its own keys, ${{key}}; give the value "
                    "itself, such as data.root=$SCRATCH on the command line"
                )


def _functions(text: str) -> Iterator[str]:
    """Yields the names of the functions that the interpolations of a text call."""
    nodes: list[Any] = [grammar_parser.parse(text)] if "${" in text else []
    while nodes:
        node = nodes.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            yield node.resolverName().getText()
        nodes += node.getChildren() if hasattr(node, "getChildren") else ()


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yields the dotted key of each text of a config, and the text."""
    if isinstance(node, Mapping):
        for name, inner in node.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from _texts(inner, f"{key}[{number}]")
    elif isinstance(node, str):
        yield key, node


def without_gpu(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config with the settings that a machine without a GPU, such as a login node, can check."""
    off = {"cuda_graphs": False, "tune_attention": False}
    return config | {"trainer": {**config["trainer"], "device": "cpu"}, "sampler": {**config["sampler"], **off}}


def parse(overrides: list[str]) -> list[Override]:
    """Returns the overrides as Hydra parses them."""
    return [_parse(override) for override in overrides]


@functools.cache
def _parse(override: str) -> Override:
    """Parses an override. The results are cached, since the runs of a sweep share most of their overrides."""
    return OverridesParser.create().parse_override(override)


def _drop_leftovers(config: dict[str, Any], typed: set[str]) -> None:
    """Deletes the values that a recipe sets for an option of a group when the user has chosen another option.

    A key is deleted if the chosen option does not accept it, another option of the group does, and the user has not
    typed it: with `guidance=none`, the guidance.scale of a recipe.
    """
    folders = config_folders()
    for group in GROUPS:
        takes = option_names(config.get(group), group, trust=trusted(config))
        surplus = [key for key in config[group] if key not in takes and not key.startswith("_")]
        if not surplus:
            continue
        of_others = {key for file in option_files(group, folders).values() for key in _keys_of(file)}
        for key in surplus:
            if key in of_others and f"{group}.{key}" not in typed:
                del config[group][key]


@functools.cache
def _keys_of(file: Path) -> tuple[str, ...]:
    return tuple(yaml.safe_load(file.read_text(encoding="utf-8")) or ())


def _find_start(config: DictConfig, key: str) -> dict[str, Any]:
    """Replaces a path that names a checkpoint by the checkpoint's folder, and returns the config stored in it.

    A path that is that folder already stays as it was typed, since `init_from` is part of a run's identity.

    Raises:
        UserError: There is no checkpoint, or its state.json is damaged.
    """
    typed = str(config[key])
    check_path(typed, key)
    try:
        found = find_checkpoint(typed)
        stored = found.config if key == "checkpoint" else {}
    except CheckpointError as error:
        raise CheckpointError(f"{key}={error}") from None
    if found.path != Path(typed):
        OmegaConf.update(config, key, str(found.path))
    logger.info("%s=%s: step %d", key, found.path, found.step)
    return stored


def _complete(stored: DictConfig, config: DictConfig) -> dict[str, Any]:
    """Adds the sections that the config of a model which was built, and not trained, does not hold.

    Of its data only the sizes are known. They replace those of the command's data, and are returned.
    """
    data = dict(stored.get("data") or {})
    sizes = {} if "_target_" in data else data
    for section in config:
        if section not in stored or (section == "data" and sizes):
            stored[section] = _raw(config[section])
    stored["data"].update(sizes)
    if sizes:
        try:
            build(OmegaConf.to_container(stored, resolve=True), "data")  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(f"{error}; the checkpoint names no data: choose some of its sizes, data=NAME") from None
    return sizes


def _raw(node: Any) -> Any:
    """Returns a node unresolved, so that ${cascade.num_stages} and the like refer to the checkpoint's values."""
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _with_checkpoint(config: DictConfig, overrides: list[str], job: Job) -> DictConfig:
    found = _find_start(config, "checkpoint")
    refuse_debug(config, found, "checkpoint")
    stored = {key: node for key, node in found.items() if key not in OF_THE_CALL}
    for key, text in _texts(stored, ""):
        if "${" in text:
            raise CheckpointError(f"checkpoint={config.checkpoint}: {key}={text} in its config is not plain data")
    merged = OmegaConf.create(stored)
    sizes = _complete(merged, config)
    for section in ("sampler", "metrics"):
        for key, default in config[section].items():  # keys that are newer than the checkpoint
            name = f"{section}.{key}"
            OmegaConf.update(merged, name, OmegaConf.select(merged, name, default=default), force_add=True)
    changed = [*OF_THE_CALL, STEP_KEY]
    for override in parse(overrides):
        key = override.key_or_group.split("@")[0].strip("/").replace("/", ".")
        section = key.split(".")[0]
        if section == "experiments" and not job.makes_run_folder:
            # A recipe of a job that reads a checkpoint trains nothing. That of a search sets what it varies itself.
            changed += ["solver", "guidance", "sampler"] if job.name == "sample" else []
            changed.append("experiment")
            continue
        if section == "data" and sizes and key.removeprefix("data.") not in sizes:
            continue  # the data of the command were taken
        if section in FIXED_BY_TRAINING and key not in (*MACHINE_KEYS, *EVALUATION_KEYS):
            raise UserError(f"{override.input_line}: {section} is fixed by the checkpoint; leave this override out")
        changed.append(key)
    merged.choices = _choices(stored, config, changed)
    for key in changed:
        OmegaConf.update(merged, key, _raw(OmegaConf.select(config, key)), merge=False, force_add=True)
    return merged


def _choices(stored: Mapping[str, Any], config: DictConfig, changed: Sequence[str]) -> dict[str, str]:
    """The option of each group: that of the training, or that of the command for a group that it chose anew."""
    trained = stored.get("choices")
    known = {str(group): str(option) for group, option in trained.items()} if isinstance(trained, Mapping) else {}
    return known | {key: config.choices[key] for key in changed if key in config.choices}
