"""Reads the overrides and the options of config groups from the records of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pixelflow.reporting.runs import Run
from pixelflow.runs.identity import setting_overrides, training_overrides


def asked(run: Run) -> dict[str, str]:
    """Returns the overrides of a run's training and of its evaluation that define the setting: keys and values.

    The seed, the recipe, and keys that state where the work is done are left out. Runs of versions that did not record
    overrides have none.
    """
    trained = training_overrides(str(override) for override in run.config.get("overrides") or ())
    evaluated = [str(override) for override in run.record.get("overrides") or ()]
    return setting_overrides([*trained, *evaluated])


def asked_keys(runs: Sequence[Run]) -> list[str]:
    """Returns the keys that the commands of any of the runs set, in the order of their first occurrence."""
    return list(dict.fromkeys(key for run in runs for key in asked(run)))


def choices_of(run: Run) -> Mapping[str, str]:
    """Returns the option of each config group, by the group; empty for a run of a version that did not record it."""
    recorded = run.record.get("choices")
    if isinstance(recorded, Mapping):
        return {str(group): str(option) for group, option in recorded.items()}
    prefix = "choices."
    return {key.removeprefix(prefix): str(value) for key, value in run.config.items() if key.startswith(prefix)}
