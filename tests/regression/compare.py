"""Comparison of stored numbers with those just collected."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.regression.cases import Values

# On another machine the sums are added in another order, because its vector units hold another number of elements, and
# the libraries choose other kernels. Rounding differs from the first step on, and training amplifies it: Adam divides
# by the size of a gradient even where that is rounding alone. So bits cannot be asked for, but these limits can.
# Hashes and printed text have no limit: they are not compared there.
RELATIVE = {"numbers": 1e-3}
ABSOLUTE = {
    "shares": 0.02,  # two of a hundred images may fall on the other side of a threshold
    "grey_levels": 2.0,
    "exact": 0.0,
}


@dataclass(frozen=True)
class Comparison:
    """differences: what lies beyond the limits, a sentence each. compared: how many values were looked at.
    largest: the greatest relative difference of the `numbers` that are within the limit."""

    differences: list[str]
    compared: int
    largest: float

    def __str__(self) -> str:
        if self.differences:
            return f"differs in {len(self.differences)} of {self.compared} values: " + "; ".join(self.differences[:3])
        if self.largest == 0.0:
            return f"identical ({self.compared} values)"
        return f"within the tolerance ({self.compared} values, largest relative difference {self.largest:.2g})"


def machine() -> dict[str, str]:
    """Returns the properties of the machine on which the last bits of a result depend."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def cpu_model() -> str:
    """Name, family and model of the first core: a virtual machine often shortens the name."""
    core = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    about = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in core.splitlines())
    return ", ".join(f"{name} {about.get(name, 'unknown')}" for name in ("model name", "cpu family", "model"))


def compare(stored: Values, found: Values, *, same_machine: bool) -> Comparison:
    """Every stored value with the found one of its name. What is found and not stored is left alone."""
    differences, compared, largest = [], 0, 0.0
    for kind, values in stored.items():
        if not same_machine and kind not in RELATIVE and kind not in ABSOLUTE:
            continue
        ours = flat(found.get(kind, {}))
        for name, expected in flat(values).items():
            compared += 1
            actual = ours.get(name, "missing")
            if repr(actual) == repr(expected):
                continue
            error = difference(actual, expected, relative=kind in RELATIVE)
            limit = 0.0 if same_machine else (RELATIVE | ABSOLUTE)[kind]
            if same_machine or not error <= limit:  # "not <=" is true for NaN, too
                differences.append(f"{name} is {actual!r}, stored {expected!r}{size(error, relative=kind in RELATIVE)}")
            elif kind in RELATIVE:
                largest = max(largest, error)
    return Comparison(differences, compared, largest)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Lists as single values: loss[0], loss[1] and so on."""
    single = {name: value for name, value in values.items() if not isinstance(value, list)}
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    return single | {f"{name}[{i}]": value for name, numbers in lists.items() for i, value in enumerate(numbers)}


def difference(actual: Any, expected: Any, *, relative: bool) -> float:
    """Infinite where one of them is no number."""
    if not all(isinstance(value, int | float) for value in (actual, expected)):
        return math.inf
    error = abs(actual - expected)
    return error / abs(expected) if relative and expected else error


def size(error: float, *, relative: bool) -> str:
    if not math.isfinite(error):
        return ""
    return f" (by {error:.2g}{' of it' if relative else ''})"
