"""Checks a config group against the signature of what it configures.

Every group is `_target_` plus the keyword arguments of that class or function. Names and types are those of its
signature, so there is no second list of options to keep in step.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import hydra.utils
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from pixelflow.errors import UserError


def check_group(node: Mapping[str, Any], key: str, *, given: tuple[str, ...] = ()) -> None:
    """Raise ValueError, naming the key, the value and what is accepted, unless `node` fits its `_target_`.

    given: arguments that the code passes itself.
    """
    target = node.get("_target_")
    try:
        callable_ = hydra.utils.get_object(str(target))
    except Exception as error:
        raise UserError(f"{key}._target_={target} cannot be imported: {error}") from None
    parameters, hints = _options(callable_)
    for name, value in node.items():
        if name in ("_target_", "_partial_"):
            continue
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1)
            hint = f"did you mean {close[0]}?" if close else f"accepted: {', '.join(parameters)}"
            raise UserError(f"{key}.{name} is not an option of {target}; {hint}")
        if isinstance(value, Mapping) and "_target_" in value:
            check_group(value, f"{key}.{name}")
        elif isinstance(value, Mapping):
            for inner, part in value.items():
                if isinstance(part, Mapping) and "_target_" in part:
                    check_group(part, f"{key}.{name}.{inner}")
        else:
            check_type(value, hints.get(name, Any), f"{key}.{name}")
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        if required and name not in node and name not in given:
            raise UserError(f"{key}.{name} is missing: {target} needs it")


def build(config: Mapping[str, Any], name: str) -> Any:
    """Instantiates a group. A ValueError of its constructor, which names an argument, gets the group in front."""
    return with_key(lambda: hydra.utils.instantiate(config[name]), config[name], name)


def with_key(build: Callable[[], Any], node: Mapping[str, Any], group: str) -> Any:
    """Returns `build()`. A ValueError becomes one that names the key `group.argument` instead of the argument.

    Args:
        build: constructs something from `node`.
        node: its arguments.
        group: the key of `node` in the config.
    """
    try:
        return build()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # Hydra wraps what a constructor raises
            cause = cause.__cause__
        if not isinstance(cause, ValueError):
            raise
        message = str(cause)
        argument = message.split("=")[0].split(" ")[0].rstrip(":,")
        prefix = f"{group}." if argument.split(".")[0] in node else f"{group}: "
        raise UserError(prefix + message) from None


def option_names(node: Mapping[str, Any]) -> set[str]:
    """The keyword arguments of a group's `_target_`."""
    return set(_options(hydra.utils.get_object(node["_target_"]))[0])


def check_type(value: Any, annotation: Any, key: str) -> None:
    """Raise ValueError unless `value` is of the annotated type; an int serves for a float."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return
    except Exception:  # a dataclass or model brings its own config
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


def _options(callable_: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Return parameters and type hints; the keys in `**options: Unpack[SomeTypedDict]` count as parameters."""
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
