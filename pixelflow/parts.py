"""Builds parts from a config that is plain data, without Hydra, and from a closed list of classes.

A config may come from anybody: it is stored in a checkpoint, or it is a recipe that came with one. So a `_target_` is
imported only if an option in conf/ names it, or if its module is one that the user trusts.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pixelflow.conf_dir import conf_folder
from pixelflow.errors import UserError

TARGET = re.compile(r"""_target_["']?\s*:\s*["']?([\w.]+)""")
_NOT_GROUPS = ("hydra", "experiments")


class NotTrustedError(UserError):
    """A config names a class or function that is neither an option of conf/ nor of a trusted module.

    Args:
        key: The dotted key of the node in the config that was checked; empty for that config itself.
        target: The name.
    """

    def __init__(self, key: str, target: Any) -> None:
        module = str(target).rpartition(".")[0]
        close = difflib.get_close_matches(str(target), registry(), n=1)
        if module.partition(".")[0] == "pixelflow" or not module:
            remedy = f"did you mean {close[0]}?" if close else "choose an option of conf/"
        else:
            remedy = f"if you trust that code, name its module: trust=[{module!r}]"
        super().__init__(
            f"{f'{key}._target_=' if key else ''}{target} is not one of the package's own parts, so it is not "
            f"imported; {remedy}"
        )


@functools.cache
def registry() -> frozenset[str]:
    """Returns the dotted names of the classes and functions that the options in conf/ name."""
    files = [file for file in conf_folder().glob("*/*.yaml") if file.parent.name not in _NOT_GROUPS]
    return frozenset(name for file in files for name in TARGET.findall(file.read_text(encoding="utf-8")))


def check_targets(node: Any, *, trust: Sequence[str] = (), key: str = "") -> None:
    """Checks every `_target_` of a config, at any depth, without importing anything.

    Args:
        node: A config: mappings, lists and values.
        trust: Names of modules whose classes and functions may be built, besides those that conf/ names.
        key: The dotted key of the config, for the message.

    Raises:
        UserError: A target is not allowed.
    """
    for where, target in targets(node, key):
        if not isinstance(target, str):
            raise UserError(f"{where}._target_={target!r} must be the dotted name of a class".removeprefix("."))
        if target not in registry() and not _is_trusted(target.rpartition(".")[0], trust):
            raise NotTrustedError(where, target)


def find(target: str, *, trust: Sequence[str] = ()) -> Any:
    """Imports the class or function of that name.

    Raises:
        UserError: It is not allowed, does not exist, or is neither a class nor a function.
    """
    check_targets({"_target_": target}, trust=trust)
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{target} cannot be imported: {error}") from None
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise UserError(f"{target} is not a class or a function")
    # A trusted module also holds what it imports from others, such as os.system.
    if target not in registry() and not _is_trusted(found.__module__, trust):
        raise UserError(f"{target} is defined in {found.__module__}, which trust does not name")
    return found


def instantiate(node: Mapping[str, Any], *, trust: Sequence[str] = (), **more: Any) -> Any:
    """Builds what a config node describes.

    Args:
        node: A mapping with `_target_`, the dotted name of a class or function, and its keyword arguments. Arguments
            may hold further nodes, also inside lists and mappings. `_partial_: true` gives a `functools.partial`.
        trust: Names of modules whose classes and functions may be built, besides those that conf/ names.
        **more: Further arguments of the outermost target, which the config does not hold.

    Returns:
        The object.

    Raises:
        UserError: A target is not allowed, does not exist, or does not accept its arguments. Nothing is imported
            unless every target of the node is allowed.
        ValueError: A constructor refuses a value. For an inner node the message begins with the keys that lead to it.
    """
    check_targets(node, trust=trust)
    return _build({**node, **more}, trust, "")


def targets(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key of each node with a `_target_`, at any depth, and the target."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value["_target_"]
        for name, inner in value.items():
            yield from targets(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from targets(inner, f"{key}[{number}]")


def _is_trusted(module: str, trust: Sequence[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in trust if name)


def _build(value: Any, trust: Sequence[str], key: str) -> Any:
    if isinstance(value, list | tuple):
        return [_build(inner, trust, f"{key}[{number}]") for number, inner in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    prefix = f"{key}." if key else ""
    built = {
        name: _build(inner, trust, f"{prefix}{name}")
        for name, inner in value.items()
        if name not in ("_target_", "_partial_")
    }
    if "_target_" not in value:
        return built
    target = value["_target_"]
    function = find(target, trust=trust)
    partial = value.get("_partial_") is True
    signature = inspect.signature(function)
    try:
        (signature.bind_partial if partial else signature.bind)(**built)
    except TypeError as error:
        raise UserError(f"{target}: {error}; its arguments are {', '.join(signature.parameters)}") from None
    try:
        return functools.partial(function, **built) if partial else function(**built)
    except ValueError as error:
        if not key:
            raise
        kind = UserError if isinstance(error, UserError) else ValueError
        raise kind(named(str(error), value, key)) from error


def named(message: str, node: Mapping[str, Any], key: str) -> str:
    """Returns the message of a constructor with the key of its node in front.

    Args:
        message: The message. If it begins with an argument that `node` holds, the two make one dotted key.
        node: The arguments of the constructor.
        key: The dotted key of the node.
    """
    argument = re.split(r"[=\s.:,\[]", message, maxsplit=1)[0]
    return f"{key}.{message}" if argument in node else f"{key}: {message}"
