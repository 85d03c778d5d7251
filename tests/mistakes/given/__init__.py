"""Makes the files that lines of the corpus name: `@NAME:TEXT` calls `MAKERS[NAME](folder, TEXT, models)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.mistakes.given import checkpoints, folders, images
from tests.mistakes.given.models import Models

__all__ = ["MAKERS", "Models"]

Maker = Callable[[Path, str, Models], Path]

MAKERS: dict[str, Maker] = {
    name: function
    for module in (checkpoints, folders, images)
    for name, function in vars(module).items()
    if callable(function) and getattr(function, "__module__", "") == module.__name__ and not name.startswith("_")
}
"""The public functions of the modules of this package."""
