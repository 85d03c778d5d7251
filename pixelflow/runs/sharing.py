"""Trained runs that several experiments share: `runs_of`, and the records of what each of them evaluates.

runs/table3/<slug>-<hash8>/            a run: its training, and every evaluation of its weights
runs/table3a/shared/<name>.json        a record: the run and the evaluation, as relative paths

An experiment with `runs_of` has no runs of its own. Its records name its evaluations, so that its table shows these and
no others. The paths are relative, so that the folder of all experiments can be moved and copied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.files import write_json
from pixelflow.runs.identity import file_name
from pixelflow.runs.status import read_status

FOLDER = "shared"
"""The folder of an experiment's records. No run can have this name, because that of a run ends with its hash."""


@dataclass(frozen=True)
class SharedEvaluation:
    """A record.

    Args:
        run: The run folder.
        evaluation: The evaluation, as a path in the run folder.
        arm: The recipe's name for the setting, if it has one. Several arms may have the same evaluation.
    """

    run: Path
    evaluation: str
    arm: str | None = None


def borrows(config: Mapping[str, Any]) -> bool:
    """Returns whether the runs of a config lie in the folder of another experiment."""
    return config.get("runs_of") not in (None, config["experiment"])


def record_use(config: Mapping[str, Any], run: Path, name: str) -> None:
    """Records an evaluation for the experiment of a config, unless the run folder itself tells that it belongs to it.

    A run folder tells that of all evaluations but those that were made for experiments with `runs_of`.

    Args:
        config: The resolved config of a pipeline.
        run: The run folder, which need not exist yet.
        name: The evaluation, as a path in the run folder, which need not exist yet either.
    """
    if borrows(config) or name in read_status(run).borrowed:
        _write(Path(config["runs_dir"]) / config["experiment"], run, name, config.get("arm"))


def claim_borrowed(experiment: Path, run: Path, names: Sequence[str]) -> None:
    """Records evaluations that another experiment has made of a run for the experiment to which the run belongs."""
    for name in set(names) & set(read_status(run).borrowed):
        _write(experiment, run, name, None)


def _write(experiment: Path, run: Path, name: str, arm: str | None) -> None:
    experiment = experiment.absolute()
    content = {"run": os.path.relpath(run.absolute(), experiment), "evaluation": name, "arm": arm}
    suffix = "" if arm is None else f"-{file_name(arm)}"
    path = experiment / FOLDER / f"{run.name}-{Path(name).stem}{suffix}.json"
    if not path.exists():
        write_json(path, content)


def shared_evaluations(experiment: Path) -> list[SharedEvaluation]:
    """Returns the records of an experiment, in the order of their names.

    Args:
        experiment: The folder of the experiment.

    Raises:
        UserError: A record is damaged.
    """
    found = []
    for path in sorted((experiment / FOLDER).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            run, evaluation = content["run"], content["evaluation"]
            arm = None if content.get("arm") is None else str(content["arm"])
            found.append(SharedEvaluation(Path(os.path.normpath(experiment / run)), str(evaluation), arm))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged; remove it, and repeat the command of the experiment") from None
    return found
