"""The folder that holds the config groups, in a checkout and in an installed package, and its options as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).resolve().parent
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def conf_folder() -> Path:
    """Returns the folder of the config groups (`backbone/`, `solver/`, ...).

    An installed wheel carries it inside the package, `pixelflow/conf`; a checkout has it beside the package, `conf`.
    """
    packaged = _PACKAGE / "conf"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "conf"


def option_files(group: str, folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Returns the options of a config group by name, in alphabetical order. `folders` are searched as well."""
    files = [path for folder in (conf_folder(), *folders) for path in (folder / group).glob("*.yaml")]
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def read_option(group: str, name: str, values: Mapping[str, Any], *, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """Reads an option of a config group, with the options that it extends, without Hydra.

    Args:
        group: Name of the group, such as "backbone".
        name: Name of the option, such as "pixelflow_tiny".
        values: Values for the references to other groups, by dotted key: `{"data.image_size": 16}` replaces
            `${data.image_size}`.
        folders: More folders of config groups, such as the user's own.

    Returns:
        The option's keys, `_target_` among them.

    Raises:
        ValueError: The group has no such option, or the option refers to a key that `values` lacks.
    """
    files = option_files(group, folders)
    if name not in files:
        raise ValueError(f"{group}={name!r} must be one of {', '.join(files)}")
    own = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    merged: dict[str, Any] = {}
    for parent in own.pop("defaults", []):
        if parent != "_self_":
            merged |= read_option(group, parent, values, folders=folders)
    for key, value in own.items():
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is not None and reference.group(1) not in values:
            raise ValueError(f"{group}={name!r} needs a value for {reference.group(1)}")
        merged[key] = values[reference.group(1)] if reference is not None else value
    return merged
