"""Builds the parts of a model from a config that is plain data, without Hydra, and from a closed list of classes.

A config stored in a checkpoint may come from anybody, so a `_target_` in it is never imported unless it names a public
class or function of the package's own parts, or of a module that the caller trusts.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pixelflow.errors import UserError

PACKAGES = ("pixelflow.backbones", "pixelflow.conditioning", "pixelflow.flow", "pixelflow.solvers")
"""Packages whose `__all__` lists what a stored config may build."""


def instantiate(node: Mapping[str, Any], *, trust: Sequence[str] = (), **more: Any) -> Any:
    """Builds what a config node describes.

    Args:
        node: A mapping with `_target_`, the dotted name of a class or function, and its keyword arguments. Arguments
            may hold further nodes, also inside lists and mappings. `_partial_: true` gives a `functools.partial`.
        trust: Names of modules whose classes and functions may be built, besides those of the package's own parts.
        **more: Further arguments of the outermost target, which the config does not hold.

    Returns:
        The object.

    Raises:
        UserError: A target is not allowed, does not exist, or does not accept its arguments. Nothing foreign is
            imported unless every target of the node is allowed.
    """
    for target in _targets(node):
        _check(target, trust)
    return _build({**node, **more}, trust)


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield str(value["_target_"])
        for inner in value.values():
            yield from _targets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _targets(inner)


def _check(target: str, trust: Sequence[str]) -> None:
    module, _, name = target.rpartition(".")
    if module in PACKAGES:
        public = importlib.import_module(module).__all__
        if name not in public:
            raise UserError(f"{module} has no part called {name}; it has {', '.join(public)}")
    elif not _is_trusted(module, trust):
        top = module.partition(".")[0] or target
        raise UserError(
            f"{target} is not one of the package's own parts, so it is not imported; if you trust that code, "
            f"load with trust=[{top!r}]"
        )


def _is_trusted(module: str, trust: Sequence[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in trust)


def _build(value: Any, trust: Sequence[str]) -> Any:
    if isinstance(value, list | tuple):
        return [_build(inner, trust) for inner in value]
    if not isinstance(value, Mapping):
        return value
    built = {key: _build(inner, trust) for key, inner in value.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in value:
        return built
    target = str(value["_target_"])
    function = _find(target, trust)
    partial = bool(value.get("_partial_", False))
    signature = inspect.signature(function)
    try:
        (signature.bind_partial if partial else signature.bind)(**built)
    except TypeError as error:
        raise UserError(f"{target}: {error}; its arguments are {', '.join(signature.parameters)}") from None
    return functools.partial(function, **built) if partial else function(**built)


def _find(target: str, trust: Sequence[str]) -> Any:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{target} cannot be imported: {error}") from None
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise UserError(f"{target} is not a class or a function")
    # A trusted module also holds what it imports from others, such as os.system.
    if module not in PACKAGES and not _is_trusted(found.__module__, trust):
        raise UserError(f"{target} is defined in {found.__module__}, which trust does not name")
    return found
