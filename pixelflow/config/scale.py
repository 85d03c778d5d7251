"""`scale=mini`: the miniature of a recipe, which is the separate recipe experiments/NAME/mini.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelflow.errors import UserError

SCALES = ("paper", "mini")
KEY, RECIPE = "scale=", "experiments="


def at_scale(arguments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Returns the command line with `experiments=NAME scale=mini` replaced by `experiments=NAME/mini`.

    With `scale=paper`, and without a scale, the recipe is taken as it stands.

    Args:
        arguments: The command line without the program.
        folders: The folders of config groups, in which the recipes lie.

    Raises:
        UserError: The scale is unknown, or the recipe has no miniature.
    """
    chosen = [argument.removeprefix(KEY) for argument in arguments if argument.startswith(KEY)]
    if not chosen:
        return list(arguments)
    scale = chosen[-1]
    if scale not in SCALES:
        raise UserError(f"scale={scale} must be one of {', '.join(SCALES)}")
    kept = [argument for argument in arguments if not argument.startswith(KEY)]
    if scale == "paper":
        return kept
    known = miniatures(folders)
    names = [argument.removeprefix(RECIPE) for argument in kept if argument.startswith(RECIPE)]
    if not names or names[-1] not in known:
        there = f"experiments={names[-1]} has no miniature" if names else "scale=mini needs experiments=NAME"
        raise UserError(f"{there}; those with one: {', '.join(known)}")
    return [f"{RECIPE}{names[-1]}/mini" if argument.startswith(RECIPE) else argument for argument in kept]


def miniatures(folders: Sequence[Path]) -> list[str]:
    """Returns the names of the recipes that have a miniature, in alphabetical order."""
    return sorted({path.parent.name for folder in folders for path in folder.glob("experiments/*/mini.yaml")})
