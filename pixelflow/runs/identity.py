"""What makes two runs the same run: the hash of the resolved scientific config."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

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
"""Keys of `sampler` that change how images are made and kept, but not (beyond rounding) the images."""

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
"""Keys of `trainer` that change where and how fast a run trains, but not, beyond rounding, what it becomes."""

MACHINE_KEYS = (
    "experiment",
    "job",
    "tracking",
    "runs_dir",
    "assets",
    "checkpoint",
    "samples",
    "rerun",
    "axes",
    "paper",
    "site",
    "sweep",
    "run_folder",
    "dry_run",
    "watch",
    "seeds",
    "settings",
    "data.root",
    "data.held_out",
    "data.cache_dir",
    "data.cache_gb",
    "data.reading",
    *(f"trainer.{key}" for key in TRAINER_MACHINE_KEYS),
    *(f"sampler.{key}" for key in SAMPLER_MACHINE_KEYS),
)
"""Keys that change where, how watched or how fast a run is, but not its results."""


def scientific(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without its machine keys."""
    return _without(config, "")


def _without(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    kept = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if path not in MACHINE_KEYS:
            kept[key] = _without(value, f"{path}.") if isinstance(value, Mapping) else value
    return kept


def config_hash(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of a resolved config, whatever the order of its keys."""
    text = json.dumps(scientific(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(overrides: list[str], *, length: int = 60) -> str:
    """What the user changed, as a readable part of a folder's name: "num_stages-2_seed-1", or "default"."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in MACHINE_KEYS or key.split(".")[0] in MACHINE_KEYS or key == "experiments":
            continue
        word = re.sub(r"[^A-Za-z0-9._]+", "-", value).strip("-")
        parts.append(f"{re.split('[./]', key.split('@')[0])[-1]}-{word}")
    text = "_".join(parts)
    return text[:length].rstrip("-_.") or "default"
