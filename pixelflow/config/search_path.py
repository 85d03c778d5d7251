"""The folders in which Hydra looks for options: those of this package, and the user's own.

A user adds folders with `--config-dir DIR` or `hydra.searchpath=[file:///DIR, pkg://mylib.conf]`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig

from pixelflow.conf_dir import conf_folder


def config_folders(arguments: Sequence[str] | None = None) -> list[Path]:
    """Returns the folders of config groups, those of the user after the package's.

    Args:
        arguments: the command line, from which the folders are read if composing has failed; None for this process's.
    """
    if HydraConfig.initialized():
        sources = [source.path for source in HydraConfig.get().runtime.config_sources]
    else:
        sources = list(_given(sys.argv if arguments is None else arguments))
    folders = [folder for source in sources if (folder := _folder(source)) is not None]
    return list(dict.fromkeys([conf_folder(), *folders]))


def known_keys() -> list[str]:
    """Returns `group.option` for every file on the search path, and the groups themselves."""
    keys: set[str] = set()
    for folder in config_folders():
        for path in folder.rglob("*.yaml"):
            group = ".".join(path.parent.relative_to(folder).parts)
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            content = content if isinstance(content, dict) else {}
            nested = [f"{k}.{inner}" for k, v in content.items() if isinstance(v, dict) for inner in v]
            keys |= {f"{group}.{key}" if group else key for key in [*content, *nested]} | {group}
    return sorted(keys - {""})


def options_with(key: str) -> list[str]:
    """Returns the options of the group `g` whose files hold the key `k`, for a key `g.k`."""
    group, _, name = key.rpartition(".")
    found = set()
    for folder in config_folders() if group else ():
        for path in (folder / group.replace(".", "/")).glob("*.yaml"):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and name in content:
                found.add(path.stem)
    return sorted(found)


def _given(arguments: Sequence[str]) -> Iterator[str]:
    for number, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key in ("--config-dir", "-cd"):
            yield from [value] if value else arguments[number + 1 : number + 2]
        elif key == "hydra.searchpath":
            yield from (entry.strip(" '\"") for entry in value.strip("[]").split(","))


def _folder(source: str) -> Path | None:
    """Returns the folder of a source, such as file:///home/me/conf, or None for one that is no folder."""
    scheme, _, rest = source.rpartition("://") if re.match(r"\w+://", source) else ("file", "", source)
    if scheme == "file":
        path = Path(rest)
    elif scheme == "pkg" and rest != "hydra.conf":
        try:
            spec = importlib.util.find_spec(rest)
        except ModuleNotFoundError:
            return None
        locations = list(spec.submodule_search_locations or []) if spec else []
        path = Path(locations[0]) if locations else Path()
    else:
        return None
    return path if rest and path.is_dir() else None
