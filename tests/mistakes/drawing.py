"""Draws commands for the fuzz test: options of the groups, and values for keys by the type of their parameter."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import typing
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pixelflow.conf_dir import option_files, read_option
from tests.conf.test_compose import composed

SMALL = (
    "job=train", "tracking=none", "trainer.max_steps=2", "trainer.batch_size=8", "trainer.save_every=0",
    "trainer.log_every=1", "trainer.device=cpu", "backbone.depth=1", "backbone.num_heads=1", "backbone.head_dim=8",
    "sampler.num_samples=8",
)  # fmt: skip
"""A recipe that trains for a second; what is drawn comes after it."""

LARGE_OPTIONS = {"backbone": ("jit_b", "jit_l", "jit_xl", "pixelflow_b", "pixelflow_l", "pixelflow_s", "pixelflow_xl")}
"""Valid options whose networks are too large for a test of two steps."""

MUCH_WORK = ("trainer.max_steps", "trainer.batch_size", "trainer.compile", "trainer.profile_steps")
"""Keys whose large values are valid and only take long; only small and wrong values are drawn for them."""

GROUPS = (
    "backbone", "cascade", "conditioning", "data", "ema", "guidance", "metrics", "objective", "optimizer", "prediction",
    "site", "solver", "timesteps", "trainer",
)  # fmt: skip
"""All groups but `tracking`, whose mirror is a process of its own with a database: it would take most of the time."""

WRONG = ("x", "''", "null", "true", "[]", "[1,2,3]", "{}", "{a: 1}", "{_target_: evil.Part}", "[{_target_: evil.call}]",
         "{_target_: os.system, command: touch executed}", "${oc.env:SECRET}", "${nothing}", "${data.image_size}",
         "'../x'", "'a b'", '"a\\nb"', "1.5", "-1")  # fmt: skip
"""Values of another type than most keys have, as Hydra's command line takes them."""

INTS = ("0", "1", "2", "3", "4", "5", "8", "16", "-1", "-8")
LARGE_INTS = ("1000000000", "9223372036854775807", "9223372036854775808", "18446744073709551616", "-1000000000000")
FLOATS = ("0.0", "1.0", "0.5", "0.1", "1.0e-3", "0.9999", "2.0", "-1.0", "-0.3", "1.0e-300")
LARGE_FLOATS = ("nan", "inf", "-inf", "1.0e9", "1.0e300", "-1.0e9")
TEXTS = ("x", "''", "'../x'", "null", "auto", "'a b'", "5")


@functools.cache
def base() -> Mapping[str, Any]:
    """The resolved config of the small recipe without what is drawn."""
    return composed(*SMALL)


@functools.cache
def keys() -> dict[str, Any]:
    """Returns every key of the recipe and of all options of its groups, with a type hint or a value as its type."""
    found: dict[str, Any] = {}
    _collect(base(), "", found)
    for group in GROUPS:
        for option in option_files(group):
            try:
                node = read_option(group, option, _References())
            except (ValueError, TypeError, AttributeError):
                continue  # an option that includes other groups; its keys are in the recipe
            _collect(node, f"{group}.", found)
    return {
        key: kind
        for key, kind in found.items()
        if not key.endswith("_target_") and key.split(".")[0] not in ("job", "tracking")
    }


def overrides() -> SearchStrategy[list[str]]:
    """Draws up to two options and up to three values."""
    options = st.lists(st.sampled_from(GROUPS).flatmap(_option), max_size=2)
    values = st.lists(st.sampled_from(sorted(keys())).flatmap(_value), min_size=1, max_size=3)
    return st.tuples(options, values).map(lambda drawn: [*drawn[0], *drawn[1]])


class _References(dict[str, Any]):
    """Gives a value for every reference of an option to another group."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> Any:
        return 2


def _collect(node: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    hints = _hints(node.get("_target_"))
    for name, hint in hints.items():
        if name not in ("return", "options", "params"):
            found.setdefault(f"{prefix}{name}", hint)
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            _collect(value, f"{prefix}{name}.", found)
        elif name not in hints:
            found.setdefault(f"{prefix}{name}", type(value))


@functools.cache
def _hints(target: str | None) -> dict[str, Any]:
    module, _, name = (target or "").rpartition(".")
    if not module:
        return {}
    part = getattr(importlib.import_module(module), name)
    try:
        return typing.get_type_hints(part.__init__ if inspect.isclass(part) else part)
    except NameError:  # annotations of other packages may name what only type checkers import
        return {}


def _option(group: str) -> SearchStrategy[str]:
    names = [name for name in option_files(group) if name not in LARGE_OPTIONS.get(group, ())]
    return st.sampled_from([*names, *names, "nothing", "../x", "null"]).map(lambda name: f"{group}={name}")


def _value(key: str) -> SearchStrategy[str]:
    """Draws a value of the key's type in half of the cases, else a large or a wrong one."""
    fitting = _fitting(keys()[key], large=key not in MUCH_WORK)
    if key in MUCH_WORK:
        fitting = st.sampled_from(("0", "1", "2", "-1", "false"))
        values = st.one_of(fitting, st.sampled_from([text for text in WRONG if text != "true"]))
    else:
        values = st.one_of(fitting, fitting, fitting, st.sampled_from(WRONG))
    return values.map(lambda value: f"++{key}={value}")


def _fitting(kind: Any, *, large: bool) -> SearchStrategy[str]:
    """Draws values, in the grammar of the command line, of a type or near its boundaries."""
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from([json.dumps(member) for member in typing.get_args(kind)])
    inner = typing.get_args(kind)
    if kind is bool:
        return st.sampled_from(("true", "false"))
    if kind is int:
        return st.sampled_from(INTS + LARGE_INTS if large else INTS)
    if kind is float:
        return st.sampled_from(FLOATS + LARGE_FLOATS + INTS if large else FLOATS)
    if kind is str:
        return st.sampled_from(TEXTS)
    origin = typing.get_origin(kind)
    if (
        kind in (list, tuple)
        or origin in (list, tuple, typing.Sequence)
        or getattr(origin, "__name__", "") == "Sequence"
    ):
        element = next((argument for argument in inner if argument is not Ellipsis), float)
        return st.lists(_fitting(element, large=large), max_size=4).map(lambda values: f"[{','.join(values)}]")
    if inner and origin is not dict and "Mapping" not in str(origin):  # a union
        return st.one_of([_fitting(argument, large=large) for argument in inner])
    if kind is type(None):
        return st.just("null")
    return st.sampled_from(WRONG)
