"""Names of classes in tables: the option of the config group that a class belongs to, such as `euler` or `jit`."""

from __future__ import annotations

import itertools
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pixelflow.conf_dir import conf_folder, option_files


def option_name(key: str, target: str, method: str = "") -> str:
    """Returns how a class is named in tables.

    That is the option of the group whose file names the class; of several such options the one with the name of the
    method, as `dopri5`. Without it their common beginning stands for them, `jit` for `jit_tiny` and `jit_xl`. A class
    without an option, or whose options have no common beginning, appears under its own name.

    Args:
        key: The config key of the class, such as "backbone._target_".
        target: The class, as `_target_` names it.
        method: The method that the class is told to use, if it is.

    Examples:
        >>> option_name("backbone._target_", "pixelflow.backbones.JiT"), option_name("solver._target_", "mine.Solver")
        ('jit', 'Solver')
    """
    groups = _options_by_target().get(target, {})
    own = key.removesuffix("._target_").replace(".", "/")
    options = groups.get(own, []) if own in groups or len(groups) != 1 else next(iter(groups.values()))
    if method in options:
        return method
    return _common_beginning(options) or target.rpartition(".")[2]


def _common_beginning(options: list[str]) -> str:
    """The words, divided by underscores, with which all options begin."""
    columns = zip(*(option.split("_") for option in options), strict=False)
    return "_".join(words[0] for words in itertools.takewhile(lambda words: len(set(words)) == 1, columns))


@cache
def _options_by_target() -> dict[str, dict[str, list[str]]]:
    """The options of the config groups by the class that they name and by the group."""
    found: dict[str, dict[str, list[str]]] = {}
    folder = conf_folder()
    for group in sorted({path.parent for path in folder.rglob("*.yaml")} - {folder}):
        name = group.relative_to(folder).as_posix()
        if not name.startswith(("experiments", "hydra")):
            for option in option_files(name):
                found.setdefault(_target(name, option), {}).setdefault(name, []).append(option)
    return found


def _target(group: str, option: str) -> str:
    """The class that an option or the option that it extends names; empty for none."""
    path = option_files(group).get(option, Path(os.devnull))
    content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        return ""
    parents = [parent for parent in content.get("defaults") or () if isinstance(parent, str) and parent != "_self_"]
    inherited = [_target(group, parent) for parent in parents]
    return str(content.get("_target_") or next((target for target in reversed(inherited) if target), ""))
