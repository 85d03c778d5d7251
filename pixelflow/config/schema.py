"""Checks a config group against the signature of what it configures, and a section against its dataclass.

Every group is `_target_` plus the keyword arguments of that class or function. Names and types are those of its
signature, so there is no second list of options to keep in step. A section without `_target_` has a frozen dataclass.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from pixelflow.errors import UserError
from pixelflow.parts import check_targets, find, instantiate, named

T = TypeVar("T")


def check_group(node: Mapping[str, Any], key: str, *, given: tuple[str, ...] = (), trust: Sequence[str] = ()) -> None:
    """Checks the names and types in a group against the signature of its `_target_`.

    Args:
        node: The group: `_target_` and its keyword arguments.
        key: The key of the group in the config.
        given: Arguments that the code passes itself.
        trust: Names of modules that may define parts, besides this package.

    Raises:
        UserError: The group does not fit; the message names the key, the value and what is accepted.
    """
    target = node.get("_target_")
    parameters, hints = _options(_callable(node, key, trust))
    partial = node.get("_partial_", False)
    if not isinstance(partial, bool) or (partial and not given):
        raise UserError(f"{key}._partial_={partial!r} must be left out")
    for name, value in node.items():
        if name in ("_target_", "_partial_"):
            continue
        if name not in parameters:
            raise UserError(f"{key}.{name} is not an option of {target}; {hint(name, parameters)}")
        _check_option(value, hints.get(name, Any), f"{key}.{name}", trust)
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        if required and name not in node and name not in given:
            raise UserError(f"{key}.{name} is missing: {target} needs it")


def _check_option(value: Any, annotation: Any, key: str, trust: Sequence[str]) -> None:
    """Checks one argument of a group: a value, a part with its own `_target_`, or a mapping of names to parts."""
    classes = _classes(annotation)
    if isinstance(value, Mapping) and "_target_" in value and classes:
        check_group(value, key, trust=trust)
        made = _callable(value, key, trust)
        known = [cls for cls in classes if not getattr(cls, "_is_protocol", False)]
        if inspect.isclass(made) and known == classes and not issubclass(made, tuple(known)):
            raise UserError(f"{key}._target_={value['_target_']} must be a {' or '.join(c.__name__ for c in known)}")
        return
    if classes and object not in classes:
        others = tuple(member for member in _members(annotation) if member not in classes)
        if not others:
            raise UserError(f"{key}={value!r} {A_PART}")
        annotation = typing.Union[others]  # noqa: UP007 - its members are known here only
    check_type(value, annotation, key)
    if isinstance(value, Mapping):
        for name, part in value.items():
            if isinstance(part, Mapping) and "_target_" in part:
                check_group(part, f"{key}.{name}", trust=trust)
            elif _of_parts(annotation):
                raise UserError(f"{key}.{name}={part!r} {A_PART}")


def _members(annotation: Any) -> list[Any]:
    """Returns the members of a union, or the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return list(typing.get_args(annotation))
    return [annotation]


def _classes(annotation: Any) -> list[Any]:
    """Returns the classes, other than those of plain values, that an annotation names; for `Any`, object."""
    found = [
        object if member is Any or typing.get_origin(member) is Callable else member for member in _members(annotation)
    ]
    return [cls for cls in found if inspect.isclass(cls) and typing.get_origin(cls) is None and cls not in PLAIN]


def _of_parts(annotation: Any) -> bool:
    """Returns whether an annotation is a mapping of names to parts, such as the terms of an objective."""
    mappings = [m for m in _members(annotation) if typing.get_origin(m) is Mapping and len(typing.get_args(m)) == 2]
    return bool(mappings) and all(_classes(typing.get_args(m)[1]) not in ([], [object]) for m in mappings)


A_PART = "must be a part: a mapping with _target_ and its options"

PLAIN = (int, float, str, bool, type(None), list, dict, tuple)
"""Types of values that are written in a config as they are."""


def read_record(record: type[T], node: Any, section: str = "", *, unknown: str = "unknown option {key}") -> T:
    """Reads a section of a config into a frozen dataclass, whose fields are the names and types of the section's keys.

    Args:
        record: The dataclass. Its `__post_init__` raises ValueError, naming the field, for a value out of range.
        node: The section, a mapping.
        section: Its key in the config; empty for the keys that belong to no section.
        unknown: The message about a key that is not a field.

    Raises:
        UserError: A key is unknown or missing, or a value is of another type or out of range.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{section}={node!r} must be a mapping of keys to values")
    prefix = f"{section}." if section else ""
    names = typing.get_type_hints(record)
    for key, value in node.items():
        if key not in names:
            raise UserError(f"{unknown.format(key=f'{prefix}{key}')}; {hint(key, names, prefix)}")
        check_type(value, names[key], f"{prefix}{key}")
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in node:
            raise UserError(f"{prefix}{field.name} is missing")
    return with_key(lambda: record(**node), node, section)


def hint(key: str, accepted: Iterable[str], prefix: str = "") -> str:
    """Returns the nearest of the accepted keys as a question, or else all of them."""
    close = difflib.get_close_matches(key, list(accepted), n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"accepted: {', '.join(accepted) or 'none'}"


def build(config: Mapping[str, Any], key: str, **more: Any) -> Any:
    """Builds the part that a resolved config describes at a dotted key, such as "solver" or "metrics.features".

    Args:
        config: A resolved config. Its `trust` names the modules that may define parts, besides this package.
        key: The key of the node.
        **more: Further arguments of the part, which the config does not hold.

    Raises:
        UserError: The part is not allowed, or its constructor refuses a value; the message names the key.
    """
    node: Any = config
    for name in key.split("."):
        node = node[name]
    return with_key(lambda: instantiate(node, trust=trusted(config), **more), node, key)


def trusted(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the modules, besides this package, that may define parts of a resolved config."""
    return tuple(config.get("trust", ()))


def with_key(build: Callable[[], Any], node: Mapping[str, Any], group: str) -> Any:
    """Returns `build()`. A ValueError becomes one that names the key `group.argument` instead of the argument.

    Args:
        build: constructs something from `node`.
        node: its arguments.
        group: the key of `node` in the config.
    """
    try:
        return build()
    except ValueError as error:
        raise UserError(named(str(error), node, group) if group else str(error)) from None


def option_names(node: Any, key: str, *, trust: Sequence[str] = ()) -> set[str]:
    """Returns the names of the keyword arguments of a group's `_target_`. Raises UserError if it has none."""
    return set(_options(_callable(node, key, trust))[0])


def _callable(node: Any, key: str, trust: Sequence[str]) -> Any:
    """Imports the `_target_` of the group at `key`."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{key} has no _target_ (it is {node!r}); choose an option of the group, or set {key}._target_")
    check_targets(node, trust=trust, key=key)
    try:
        return find(node["_target_"], trust=trust)
    except UserError as error:
        raise UserError(f"{key}._target_={error}") from None


def check_type(value: Any, annotation: Any, key: str) -> None:
    """Raises UserError unless `value` is of the annotated type; an int serves for a float, a list for a tuple."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return
    except SchemaError:  # a mapping to a protocol, of which pydantic can check no instance
        names = tuple(typing.get_origin(member) or member for member in _members(annotation))
        return check_type(value, typing.Union[names], key)  # noqa: UP007 - its members are known here only
    except PydanticUserError:  # a dataclass or model brings its own config
        adapter = TypeAdapter(annotation)
    try:
        try:
            adapter.validate_python(value)
        except ValidationError:
            if not isinstance(value, list):
                raise
            adapter.validate_python(tuple(value))  # YAML has no tuples
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(_readable(detail["msg"]) for detail in error.errors()))
        raise UserError(f"{key}={value!r}: {wanted}") from None


def _readable(message: str) -> str:
    return message.replace("Input should be ", "must be ")


@functools.cache
def _options(callable_: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Returns parameters and type hints; the keys in `**options: Unpack[SomeTypedDict]` count as parameters."""
    hints = _hints(callable_)
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(callable_).parameters.items():
        if typing.get_origin(hints.get(name)) is not typing.Unpack:
            parameters[name] = parameter
            continue
        (options,) = typing.get_args(hints[name])
        for option, hint in typing.get_type_hints(options).items():
            default = inspect.Parameter.empty if option in options.__required_keys__ else None
            parameters[option] = inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default)
            hints[option] = hint
    return parameters, hints


def _hints(callable_: Any) -> dict[str, Any]:
    function = callable_.__init__ if inspect.isclass(callable_) else callable_
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations of other packages may name what only type checkers import
        return {}
