"""Which runs of an experiment may be published as the results of its recipe, and what is recorded of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.reporting.notes import span
from pixelflow.reporting.runs import Run, spell
from pixelflow.runs.identity import config_hash, own_evaluation, setting_overrides

RESULTS = "experiments/results"
"""The folder of published results."""
SHOWN = 3
"""The number of settings that a message names."""


@dataclass(frozen=True)
class RecipeSetting:
    """A setting of a recipe: the hash of its weights, its evaluation as a path in the run folder, and its arm.

    Args:
        name: Its overrides, for messages.
        weights: See `pixelflow.runs.identity.config_hash`.
        evaluation: See `pixelflow.runs.identity.own_evaluation`.
        arm: The recipe's name for it, or None.
    """

    name: str
    weights: str
    evaluation: str
    arm: str | None

    @staticmethod
    def of(overrides: Sequence[str], config: Mapping[str, Any]) -> RecipeSetting:
        """Returns the setting that overrides of a recipe's sweep make."""
        arm = config.get("arm")
        shown = setting_overrides(overrides) | {"seed": config["seed"]}
        name = " ".join(f"{key}={value}" for key, value in shown.items())
        return RecipeSetting(name, config_hash(config), own_evaluation(config), None if arm is None else spell(arm))

    def is_of(self, run: Run) -> bool:
        """Returns whether a run with one of its evaluations is this setting as the recipe states it."""
        weights = run.folder and re.search(r"-([0-9a-f]{8})(-rerun\d+)?$", run.folder.name)
        return bool(weights) and (weights[1], run.evaluation, run.arm) == (self.weights, self.evaluation, self.arm)  # type: ignore[index]


def recipe_results(runs: Sequence[Run], settings: Sequence[RecipeSetting]) -> tuple[list[Run], list[str]]:
    """Returns the runs that a recipe's command makes, and notes on those that are missing and on their code.

    Args:
        runs: The runs of the experiment.
        settings: The settings of the recipe.

    Raises:
        UserError: None of the runs belongs to the recipe.
    """
    chosen = [run for run in runs if run.complete and any(setting.is_of(run) for setting in settings)]
    missing = [setting.name for setting in settings if not any(setting.is_of(run) for run in chosen)]
    if not chosen:
        raise UserError(
            f"job.publish=true: none of {len(runs)} runs is one of the recipe's {len(settings)} settings with its "
            f"evaluation; run the recipe first, without other overrides ({_some(missing)})"
        )
    notes = [f"Not measured: {_some(missing)}."] if missing else []
    return chosen, [*notes, *_code(chosen)]


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return "; ".join(names[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _code(runs: Sequence[Run]) -> list[str]:
    """A note on the commits that the runs were made with."""
    known: dict[str, None] = {}
    for run in runs:
        path = (run.folder or Path()) / "provenance.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            commit = str(record.get("commit") or f"version {record.get('version')}")[:12]
            known[commit + (" with uncommitted changes" if record.get("diff") else "")] = None
        except (OSError, ValueError, AttributeError):
            known["unknown code"] = None
    return [f"The runs were made with {span(known)}."]
