"""The identity of runs and evaluations: which config keys determine the weights, and which determine what is measured.

A config has three kinds of keys. Some determine the trained weights; their hash names the run folder. Some determine
an evaluation of given weights; their hash names a file in `evaluation/` of that folder. The others state where, how
fast and under which observation the work is done, and belong to neither hash. `trainer.precision` is of the first two
kinds, because both training and sampling use it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

TRAINING_SECTIONS = (
    "data",
    "backbone",
    "conditioning",
    "encoder",
    "prediction",
    "cascade",
    "timesteps",
    "objective",
    "optimizer",
    "ema",
    "trainer",
    "seed",
    "init_from",
)
"""Sections that determine the weights, without their evaluation keys and machine keys. A section that no list of this
module names (one of a user's own package) counts as one of them: a needless second run costs less than a wrong result.
"""

EVALUATION_SECTIONS = ("solver", "guidance", "sampler", "metrics")
"""Sections that determine an evaluation of given weights, without their machine keys."""

CALL_SECTIONS = (
    "experiment",
    "runs_of",
    "job",
    "tracking",
    "runs_dir",
    "assets",
    "trust",
    "checkpoint",
    "samples",
    "runs",
    "rerun",
    "debug",
    "axes",
    "arm",
    "paper",
    "question",
    "chart",
    "site",
    "sweep",
    "run_folder",
    "dry_run",
    "watch",
    "seeds",
    "settings",
    "overrides",
    "choices",
)
"""Sections that describe the command, its place and its report, but neither the weights nor their evaluation."""

EVALUATION_KEYS = ("data.reference_images", "data.held_out_split")
"""Keys of the training sections that only an evaluation reads."""

SHARED_KEYS = ("trainer.precision",)
"""Keys of the training sections that determine an evaluation as well."""

STEP_KEY = "sampler.step"
"""Key of `sampler` that chooses the weights of an evaluation among those of its run. The name of an evaluation's file
begins with the step itself, so that the key belongs to no hash."""

SAMPLER_MACHINE_KEYS = (
    "format",
    "per_shard",
    "batch_size",
    "fixed_batch",
    "compile",
    "cuda_graphs",
    "tune_attention",
    "trajectories",
)
"""Keys of `sampler` that change how images are computed and stored but, beyond rounding, not the images."""

TRAINER_MACHINE_KEYS = (
    "device",
    "log_every",
    "save_every",
    "grid_every",
    "keep_checkpoints",
    "keep_every",
    "async_save",
    "accumulate",
    "parallel",
    "shard_size",
    "stall_seconds",
    "compile",
    "activation_checkpointing",
    "attention",
    "profile_steps",
)
"""Keys of `trainer` that change where and how fast a run trains but, beyond rounding, not its weights."""

DATA_MACHINE_KEYS = ("root", "held_out", "cache_dir", "cache_gb", "reading")
"""Keys of `data` that state where the data lie and how they are read. The data's name is part of the identity.
`data.json` in the run folder distinguishes other data of that name from moved ones."""

MACHINE_KEYS = (
    *CALL_SECTIONS,
    *(f"data.{key}" for key in DATA_MACHINE_KEYS),
    *(f"trainer.{key}" for key in TRAINER_MACHINE_KEYS),
    *(f"sampler.{key}" for key in SAMPLER_MACHINE_KEYS),
)
"""Dotted keys that belong to neither hash."""


def training_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a resolved config that determines the weights.

    Examples:
        >>> training_config({"seed": 0, "solver": {"num_steps": 10}, "trainer": {"max_steps": 5, "device": "cpu"}})
        {'seed': 0, 'trainer': {'max_steps': 5}}
    """
    return _without(config, (*MACHINE_KEYS, *EVALUATION_SECTIONS, *EVALUATION_KEYS))


def evaluation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a resolved config that determines an evaluation of given weights.

    Examples:
        >>> evaluation_config({"seed": 0, "solver": {"num_steps": 10}, "sampler": {"seed": 1, "format": "npz"}})
        {'solver': {'num_steps': 10}, 'sampler': {'seed': 1}}
    """
    sections = {key: config[key] for key in EVALUATION_SECTIONS if key in config}
    kept = _without(sections, (*MACHINE_KEYS, STEP_KEY))
    for path in (*EVALUATION_KEYS, *SHARED_KEYS):
        section, key = path.split(".")
        if isinstance(node := config.get(section), Mapping) and key in node:
            kept.setdefault(section, {})[key] = node[key]
    return kept


def config_hash(config: Mapping[str, Any]) -> str:
    """Returns eight hexadecimal digits that identify the weights of a resolved config, in any order of its keys."""
    return _digest(training_config(config))


def evaluation_hash(config: Mapping[str, Any]) -> str:
    """Returns eight hexadecimal digits that identify an evaluation of given weights, in any order of the keys."""
    return _digest(evaluation_config(config))


def sampling_hash(config: Mapping[str, Any]) -> str:
    """Returns eight hexadecimal digits that identify a set of images of given weights in one file format."""
    settings = {key: value for key, value in evaluation_config(config).items() if key not in ("metrics", "data")}
    return _digest(settings | {"format": config["sampler"]["format"]})


def evaluation_file(checkpoint: str, config: Mapping[str, Any]) -> str:
    """Returns the path, inside the run folder, of the evaluation of a checkpoint.

    Args:
        checkpoint: Name of the checkpoint's folder, such as "step_00002000".
        config: The resolved config of the evaluation.
    """
    return f"evaluation/{file_name(checkpoint)}-{evaluation_hash(config)}.json"


def sampled_step(config: Mapping[str, Any]) -> int:
    """Returns the step whose weights job=pipeline samples: `sampler.step`, or the last one."""
    step = config["sampler"].get("step")
    return int(config["trainer"]["max_steps"] if step is None else step)


def own_evaluation(config: Mapping[str, Any]) -> str:
    """Returns the path, inside the run folder, of the evaluation that job=pipeline makes."""
    return evaluation_file(f"step_{sampled_step(config):08d}", config)


def training_overrides(overrides: Iterable[str]) -> list[str]:
    """Returns the overrides that can change the weights, for the name of a run folder."""
    return [override for override in overrides if not _of_evaluation(_key(override))]


def setting_overrides(overrides: Iterable[str]) -> dict[str, str]:
    """Returns overrides as keys and values, without those that do not define a setting.

    The seed, the recipe, and keys that state where and how fast the work is done are left out.

    Examples:
        >>> setting_overrides(["guidance=none", "+cascade.num_stages=2", "seed=1", "experiments=x", "tracking=none"])
        {'guidance': 'none', 'cascade.num_stages': '2'}
    """
    found = {}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        hidden = ("seed", "experiments", *MACHINE_KEYS)
        if not any(key == other or key.startswith((f"{other}.", "hydra/")) for other in hidden):
            found[key] = value
    return found


def slug(overrides: Iterable[str], *, length: int = 60) -> str:
    """Returns the user's changes as a readable part of a folder's name: "num_stages-2_seed-1", or "default".

    Words are never cut: changes that do not fit are left out, and the seed is always there. The characters need no
    quoting in a shell or in an override.

    Args:
        overrides: Overrides as the user typed them.
        length: Maximum number of characters.
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in MACHINE_KEYS or key.split(".")[0] in MACHINE_KEYS or key == "experiments":
            continue
        word = re.sub(r"[^A-Za-z0-9._]+", "-", value).strip("-")
        name = re.sub(r"[^A-Za-z0-9_]+", "-", re.split("[./]", key.split("@")[0])[-1]).lstrip("-")
        parts.append((key == "seed", f"{name}-{word}"[: length if key == "seed" else None]))
    left = length - sum(len(part) + 1 for is_seed, part in parts if is_seed)
    kept = []
    for is_seed, part in parts:
        if is_seed or len(part) <= left:
            kept.append(part)
            left -= 0 if is_seed else len(part) + 1
    text = "_".join(kept).lstrip("-.")
    return text.rstrip("-_.") or ("changed" if parts else "default")


def file_name(name: str, *, length: int = 100) -> str:
    """Returns a name from elsewhere, such as that of a checkpoint's folder, as a part of a file's name.

    The result is ASCII without spaces and separators and begins with a letter or digit. A name that had to be changed,
    or whose case another file system could lose, ends with digits of its hash, so that two names remain two.

    Examples:
        >>> file_name("step_00001000"), file_name("../a b")
        ('step_00001000', 'a-b-2c2c791a')
    """
    safe = re.sub(r"[^A-Za-z0-9._]+", "-", name).lstrip("-._")[:length].rstrip("-.")
    if safe and safe == name == name.lower():
        return name
    return f"{safe or 'unnamed'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _of_evaluation(key: str) -> bool:
    return re.split("[./@]", key)[0] in EVALUATION_SECTIONS or key in EVALUATION_KEYS


def _without(node: Mapping[str, Any], dropped: Iterable[str], prefix: str = "") -> dict[str, Any]:
    kept = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if path not in dropped:
            kept[key] = _without(value, dropped, f"{path}.") if isinstance(value, Mapping) else value
    return kept


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
