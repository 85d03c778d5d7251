"""Which runs are the same setting with another seed, and which config keys tell the settings apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixelflow.reporting.runs import Run, evaluation_time
from pixelflow.runs.identity import MACHINE_KEYS

DEFAULT_IGNORE = ("seed", "hydra", *MACHINE_KEYS)
"""Config keys, with all below them, that do not make a setting: where and how a run is done, not what it is."""
MISSING = "–"


@dataclass(frozen=True)
class Setting:
    """Runs whose config is equal but for the seed. config: without seed and ignored keys."""

    config: dict[str, Any]
    runs: tuple[Run, ...]


def group(runs: Sequence[Run], *, ignore: Iterable[str] = DEFAULT_IGNORE) -> tuple[list[Setting], list[str]]:
    """The settings of `runs`, in order of first appearance, and notes on runs left out because they repeat a seed.

    A seed counts once in each setting: the run that was evaluated last stands for it. `a.seed` is taken for the
    seed itself if it equals it in every run.
    """
    prefixes = tuple(ignore)
    followers = {
        key
        for run in runs
        for key in run.config
        if key.endswith(".seed") and all(other.config.get(key) == other.seed for other in runs)
    }
    configs: dict[str, dict[str, Any]] = {}
    members: dict[str, dict[int, Run]] = {}
    notes = []
    for run in sorted(runs, key=_age):
        config = {
            key: value
            for key, value in run.config.items()
            if key != "seed" and key not in followers and not _below(key, prefixes)
        }
        identity = _text(config)
        configs.setdefault(identity, config)
        earlier = members.setdefault(identity, {}).get(run.seed)
        if earlier:
            notes.append(f"Left out: {earlier.name}: {run.name} is the same setting and seed, evaluated later.")
        members[identity][run.seed] = run
    settings = [
        Setting(configs[identity], tuple(run for _, run in sorted(members[identity].items()))) for identity in configs
    ]
    return settings, notes


def _age(run: Run) -> tuple[float, str]:
    return (evaluation_time(run.record) or 0.0, run.name)


def _below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that not all of `configs` have with the same value, in alphabetical order."""
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({_text([key in config, config.get(key)]) for config in configs}) > 1]


def choose_axes(configs: Sequence[Mapping[str, Any]], wanted: Sequence[str] = ()) -> list[str]:
    """Keys that tell all of `configs` apart: those of `wanted` that differ, and as few others as a greedy search finds.

    Keys that change together with others are left out. Every two configs must differ.
    """
    differing = differing_keys(configs)
    texts = {key: [_text([key in config, config.get(key)]) for config in configs] for key in differing}

    def told_apart(keys: Sequence[str]) -> int:
        return len({tuple(texts[key][i] for key in keys) for i in range(len(configs))})

    def cost(key: str) -> tuple[bool, bool, int, int, str]:
        """Numbers and words before lists and class names, short keys before long ones."""
        is_list = any(isinstance(c.get(key), list) for c in configs)
        return is_list, key.endswith("_target_"), key.count("."), len(key), key

    axes = [key for key in wanted if key in differing]
    added: list[str] = []
    while told_apart(axes + added) < len(configs):
        added.append(min(differing, key=lambda key: (-told_apart([*axes, *added, key]), cost(key))))
    for key in list(added):
        rest = [other for other in added if other != key]
        if told_apart(axes + rest) == len(configs):
            added = rest
    return axes + sorted(added)


def axis_headers(axes: Sequence[str]) -> list[str]:
    """The shortest ends of the keys that differ: cascade.kickoff -> kickoff; prediction._target_ -> prediction."""
    parts = [key.removesuffix("._target_").split(".") for key in axes]
    lengths = [1] * len(axes)
    while True:
        headers = [".".join(p[-n:]) for p, n in zip(parts, lengths, strict=True)]
        clashing = [i for i, header in enumerate(headers) if headers.count(header) > 1 and lengths[i] < len(parts[i])]
        if not clashing:
            return headers
        for i in clashing:
            lengths[i] += 1


def axis_values(configs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """How the values of `key` are shown, one per config; class paths by their last part if that is enough."""
    values = [spell(config[key]) if key in config else MISSING for config in configs]
    if key.endswith("_target_"):
        short = [value.rpartition(".")[2] for value in values]
        if len(set(short)) == len(set(values)):
            return short
    return values


def spell(value: Any) -> str:
    """A config value as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def natural(values: Sequence[Any]) -> list[tuple[int, Any]]:
    """A sort key for rows of config values: None and missing, numbers by size, text with the numbers in it by size."""
    keys: list[tuple[int, Any]] = []
    for value in values:
        if value is None:
            keys.append((0, 0))
        elif isinstance(value, int | float):
            keys.append((1, value))
        else:
            pieces = re.split(r"(\d+)", spell(value))
            keys.append((2, [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)]))
    return keys
