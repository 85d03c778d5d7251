"""The checks that the runs of a sweep have passed, since most runs share most of their groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Accepted:
    """Records what was checked. A check that fails ends the sweep, so that what was checked is accepted."""

    def __init__(self) -> None:
        self._marks: set[str] = set()
        self._made: dict[str, tuple[str, Any]] = {}

    def again(self, *nodes: Any) -> bool:
        """Returns whether the same values were given before.

        Args:
            *nodes: The name of the check, and all values on which it depends: plain data.
        """
        mark = repr(nodes)
        known = mark in self._marks
        self._marks.add(mark)
        return known

    def made(self, name: str, make: Callable[[], Any], *nodes: Any) -> Any:
        """Returns `make()`, or the last result of this name if it was made of the same values; see `again`."""
        mark = repr(nodes)
        if name not in self._made or mark != self._made[name][0]:
            self._made[name] = mark, make()
        return self._made[name][1]
