"""Grouping of runs that differ only in their seed, and the config keys that distinguish the groups."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixelflow.reporting.option_names import option_name
from pixelflow.reporting.presentation import ARM
from pixelflow.reporting.runs import Run, evaluation_time, spell
from pixelflow.runs.identity import MACHINE_KEYS

DEFAULT_IGNORE = ("seed", "hydra", *MACHINE_KEYS)
"""Config keys that are ignored, with all keys below them, when settings are compared: the seed, and the keys that
describe where and how fast the work is done."""
MISSING = "–"


@dataclass(frozen=True)
class Setting:
    """Runs with equal configs except for the seed.

    Args:
        config: The flat config without the seed and the ignored keys, and with the arm of the newest run that has one.
        runs: One run per seed, by increasing seed.
    """

    config: dict[str, Any]
    runs: tuple[Run, ...]


def group(runs: Sequence[Run], *, ignore: Iterable[str] = DEFAULT_IGNORE) -> tuple[list[Setting], list[str]]:
    """Groups runs into settings.

    Each seed is used once in a setting, by the run that was evaluated last. Arms with equal configs are settings of
    their own, because one evaluation may be the result of several arms. A key such as `data.seed` is treated as the
    seed if the two are equal in every run.

    Args:
        runs: Finished and evaluated runs.
        ignore: Config keys that are ignored, with all keys below them.

    Returns:
        The settings, by the time of their first evaluation, and notes on the runs that were left out.
    """
    prefixes = tuple(ignore)
    followers = {
        key
        for run in runs
        for key in run.config
        if key.endswith(".seed") and all(other.config.get(key) == other.seed for other in runs)
    }
    alike: dict[str, list[Run]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=_age):
        config = {
            key: value
            for key, value in run.config.items()
            if key != "seed" and key not in followers and not _below(key, prefixes)
        }
        identity = _text(config)
        configs.setdefault(identity, config)
        alike.setdefault(identity, []).append(run)
    settings, notes = [], []
    for identity, config in configs.items():
        for arm, members in _by_arm(alike[identity]).items():
            by_seed: dict[int, Run] = {}
            for run in members:
                if earlier := by_seed.get(run.seed):
                    notes.append(_left_out(earlier, run))
                by_seed[run.seed] = run
            chosen = tuple(run for _, run in sorted(by_seed.items()))
            settings.append(Setting(config if arm is None else config | {ARM: arm}, chosen))
    return settings, notes


def _by_arm(runs: Sequence[Run]) -> dict[str | None, list[Run]]:
    """Runs with equal configs by their arm. They have one, the newest, unless several arms have the same evaluation."""
    arms = [run.arm for run in runs if run.arm is not None]
    evaluations = {(run.name, evaluation_time(run.record), run.arm) for run in runs}
    if len({(name, time) for name, time, _ in evaluations}) == len(evaluations):
        return {arms[-1] if arms else None: list(runs)}
    return {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}


def _left_out(earlier: Run, later: Run) -> str:
    if earlier.name == later.name:
        return f"Left out: an earlier evaluation of {later.name} with the same settings."
    return f"Left out: {earlier.name}, which has the same setting and seed as {later.name} and was evaluated earlier."


def _age(run: Run) -> tuple[float, str]:
    return (evaluation_time(run.record) or 0.0, run.name)


def _below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys whose value is not the same in all configs, in alphabetical order."""
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({_text([key in config, config.get(key)]) for config in configs}) > 1]


def followers(configs: Sequence[Mapping[str, Any]], leaders: Sequence[str] = ()) -> set[str]:
    """Returns the keys that repeat another differing key, as `solver.num_stages` repeats `cascade.num_stages`.

    A key repeats one of another section if both end in the same name and if it has the value of the other one in every
    config in which it occurs. Two keys of one section, such as the weights of two losses, are two settings.

    Args:
        configs: Flat configs.
        leaders: Keys that are never counted as repeating another one.

    Examples:
        >>> followers([{"cascade.n": 1, "solver.n": 1}, {"cascade.n": 2, "solver.n": 2}, {"cascade.n": 3}])
        {'solver.n'}
    """
    found: set[str] = set()
    differing = differing_keys(configs)
    for key in sorted(differing, key=lambda key: (-sum(key in config for config in configs), key)):
        section, name = key.partition(".")[0], key.rpartition(".")[2]
        others = [
            other
            for other in differing
            if other not in found and other.rpartition(".")[2] == name and other.partition(".")[0] != section
        ]
        holders = [config for config in configs if key in config]
        if key in leaders or name == "_target_":
            continue
        for other in others:
            same = all(other in config and config[other] == config[key] for config in holders)
            # Of two keys that repeat each other, the first in the alphabet stays, unless the other one leads.
            mutual = same and all(key in config for config in configs if other in config)
            if same and (not mutual or other in leaders or other < key):
                found.add(key)
                break
    return found


def _with_classes(keys: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Replaces a group, such as `guidance`, by the class of its option where the configs do not hold its choice."""
    groups = {
        key
        for key in keys
        if any(f"{key}._target_" in config for config in configs) and not all(key in config for config in configs)
    }
    return [f"{key}._target_" if key in groups else key for key in keys]


def choose_axes(
    configs: Sequence[Mapping[str, Any]], wanted: Sequence[str] = (), preferred: Sequence[str] = ()
) -> list[str]:
    """Returns config keys whose values distinguish all configs.

    Keys that change together with others are left out: beside the wanted ones, a greedy search adds as few as possible.

    Args:
        configs: Flat configs, no two of them equal.
        wanted: Keys to use first, if they differ between the configs; a group stands for the class of its option.
        preferred: Keys to prefer to others that distinguish as many configs.
    """
    wanted, preferred = _with_classes(wanted, configs), _with_classes(preferred, configs)
    repeated = followers(configs, [*wanted, *preferred])
    differing = [key for key in differing_keys(configs) if key not in repeated]
    texts = {key: [_text([key in config, config.get(key)]) for config in configs] for key in differing}

    def distinguished(keys: Sequence[str]) -> int:
        """The number of configs that these keys distinguish."""
        return len({tuple(texts[key][i] for key in keys) for i in range(len(configs))})

    def cost(key: str) -> tuple[bool, bool, bool, int, int, str]:
        """Prefers numbers and words to lists and class names, and short keys to long ones."""
        is_list = any(isinstance(c.get(key), list) for c in configs)
        return key not in preferred, is_list, key.endswith("_target_"), key.count("."), len(key), key

    axes = [key for key in wanted if key in differing]
    added: list[str] = []
    while distinguished(axes + added) < len(configs):
        added.append(min(differing, key=lambda key: (-distinguished([*axes, *added, key]), cost(key))))
    for key in list(added):
        rest = [other for other in added if other != key]
        if distinguished(axes + rest) == len(configs):
            added = rest
    return axes + sorted(added)


def axis_headers(axes: Sequence[str]) -> list[str]:
    """Returns the shortest ends of the keys that are all different; the header of the arms is "setting".

    Examples:
        >>> axis_headers(["arm", "cascade.kickoff", "prediction._target_"])
        ['setting', 'kickoff', 'prediction']
    """
    parts = [["setting"] if key == ARM else _words(key) for key in axes]
    lengths = [1] * len(axes)
    while True:
        headers = [".".join(p[-n:]) for p, n in zip(parts, lengths, strict=True)]
        clashing = [i for i, header in enumerate(headers) if headers.count(header) > 1 and lengths[i] < len(parts[i])]
        if not clashing:
            return headers
        for i in clashing:
            lengths[i] += 1


def _words(key: str) -> list[str]:
    """The parts of a key, from which its header is made. A group of arms, `experiments/NAME@_global_`, has its name."""
    group, at, _ = key.partition("@")
    return group.split("/")[-1:] if at else key.removesuffix("._target_").split(".")


def axis_values(configs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Returns the values of a key as text, one per config.

    A class appears as the option of its config group, else under its name, and with its path if that is ambiguous.
    """
    values = [spell(config[key]) if key in config else MISSING for config in configs]
    if key.endswith("_target_"):
        methods = [str(config.get(f"{key.removesuffix('_target_')}method", "")) for config in configs]
        named = [option_name(key, value, method) for value, method in zip(values, methods, strict=True)]
        for short in (named, [value.rpartition(".")[2] for value in values]):
            if len(set(zip(values, short, strict=True))) == len(set(short)):
                return short
    return values


def natural(values: Sequence[Any]) -> list[tuple[int, Any]]:
    """Returns a sort key for rows of config values.

    None and missing values come first, then numbers, then text, in which numbers are compared by their value.
    """
    keys: list[tuple[int, Any]] = []
    for value in values:
        if value is None:
            keys.append((0, 0))
        elif isinstance(value, int | float):
            keys.append((1, value))
        else:
            pieces = re.split(r"(\d+)", spell(value))
            keys.append((2, [float(piece) if i % 2 else piece for i, piece in enumerate(pieces)]))
    return keys
