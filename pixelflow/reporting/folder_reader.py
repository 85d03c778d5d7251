"""The runs of an experiment, read from their folders."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixelflow.errors import UserError
from pixelflow.reporting.runs import (
    Evaluation,
    Run,
    broken_run,
    evaluated_runs,
    read_evaluation,
    read_evaluations,
    read_mapping,
    seed_of,
)
from pixelflow.runs.flat import flatten
from pixelflow.runs.sharing import shared_evaluations
from pixelflow.runs.status import STATUS_FILE, RunStatus, current_status


def read_run_folders(root: Path) -> list[Run]:
    """Returns every run at or below a folder, in the order of the paths.

    A run folder is one that holds a config.yaml. A run that the pipeline evaluated with several settings is returned
    once for each of them, and so is one that `evaluate.py` measured by itself, for its own experiment. Unfinished,
    failed and broken runs are included, with their state and reason, and so are the evaluations of other experiments'
    runs that the records of this one name (see `pixelflow.runs.sharing`).

    Args:
        root: A run folder or a folder of run folders.

    Raises:
        UserError: There is no run, or a record is damaged.
    """
    root = Path(root)
    runs = [run for folder in sorted(_run_folders(root)) for run in _read_folder(folder, by_hand=True)]
    runs += read_shared_runs(root)
    if not runs:
        problem = "holds no runs (folders with a config.yaml)" if root.is_dir() else "is not a folder"
        raise UserError(f"{root} {problem}; train first, or name the folder of another experiment")
    return runs


def read_recipe_runs(
    experiment: Path, folders: Sequence[Path], *, borrows: bool, evaluations: Collection[tuple[Path, str]] = ()
) -> list[Run]:
    """Returns runs once for each evaluation that belongs to an experiment.

    Args:
        experiment: The folder of the experiment.
        folders: The run folders to read, in it or in that of its `runs_of`.
        borrows: Whether the runs belong to another experiment.
        evaluations: The evaluations to return, as run folders and paths in them; empty for all. Runs without an
            evaluation are returned in any case.

    Raises:
        UserError: A record is damaged.
    """
    own = [] if borrows else [run for folder in folders for run in _read_folder(folder)]
    wanted = {(folder.absolute(), name) for folder, name in evaluations}
    runs = [*read_shared_runs(experiment, folders), *own]
    return [
        run
        for run in runs
        if not wanted or not run.evaluation or run.folder is None or (run.folder.absolute(), run.evaluation) in wanted
    ]


def read_shared_runs(experiment: Path, among: Sequence[Path] | None = None) -> list[Run]:
    """Returns the evaluations that the records of an experiment name, and runs that have not made theirs yet.

    Args:
        experiment: The folder of the experiment.
        among: The run folders to read; None for all.

    Raises:
        UserError: A record is damaged.
    """
    wanted = None if among is None else {folder.absolute() for folder in among}
    names: dict[tuple[Path, str | None], list[str]] = {}
    for entry in shared_evaluations(experiment):
        if wanted is None or entry.run.absolute() in wanted:
            names.setdefault((entry.run, entry.arm), []).append(entry.evaluation)
    return [
        run.of_recipe(experiment.name, arm)
        for (folder, arm), chosen in names.items()
        for run in _read_folder(folder, chosen)
    ]


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, children, files in os.walk(root):
        if "config.yaml" in files:
            yield Path(folder)
            children.clear()  # Checkpoints and code snapshots below may hold a config.yaml of their own.
        children[:] = [child for child in children if not child.startswith(".")]


def _read_folder(folder: Path, chosen: Sequence[str] | None = None, *, by_hand: bool = False) -> list[Run]:
    """Returns the run once for each of the chosen evaluations; by default for those of the run's experiment.

    With `by_hand`, also for those of its experiment that job=evaluate has made, which belong to no sweep.
    """
    config: dict[str, Any] = {}
    try:
        config = flatten(read_mapping(folder / "config.yaml"))
        seed = seed_of(config)
        status = _read_status(folder)
        state, reason = _state_of(status)
        run = Run(folder.name, config, seed, {}, {}, state, folder, reason)
        made, borrowed = (status.evaluations, status.borrowed) if status else ((), ())
        others = _others(folder, made) if by_hand else []
        newest = read_evaluations(folder / "evaluation")[-1:] if chosen is None and not made else []
    except (ValueError, OSError) as error:
        return [broken_run(folder.name, config, error, folder)]
    names = [name for name in made if (name not in borrowed if chosen is None else name in chosen)]
    found: list[Evaluation] = []
    broken: list[Run] = []
    for name in [*names, *others]:
        try:
            evaluation = read_evaluation(folder / name)
        except ValueError as error:
            broken.append(broken_run(folder.name, config, error, folder))
            continue
        if name in made or evaluation.record.get("experiment", "") == config.get("experiment"):
            found.append(evaluation)
    if chosen is None and not made and not found:
        return evaluated_runs(run, newest, final=False)  # it stands for a run whose status names none
    if chosen is not None:  # the run's state may be that of another experiment's work; it tells of what is missing here
        left = [run] if set(chosen) - set(made) else []
        run = replace(run, state="finished", reason="")
        return [*(evaluated_runs(run, found, final=True) if found else ()), *broken, *left]
    return [*(evaluated_runs(run, found, final=True) if found else ()), *broken]


def _others(folder: Path, made: Sequence[str]) -> list[str]:
    """The evaluations of a run that no pipeline has made: those of job=evaluate and the trials of searches."""
    there = sorted(path.name for path in (folder / "evaluation").glob("*.json") if not path.name.startswith("."))
    return [f"evaluation/{name}" for name in there if f"evaluation/{name}" not in made]


def _read_status(folder: Path) -> RunStatus | None:
    path = folder / STATUS_FILE
    if not path.exists():
        return None
    RunStatus.parse(read_mapping(path))  # raises for a damaged file
    return current_status(folder)


def _state_of(status: RunStatus | None) -> tuple[str, str]:
    """The state of a run and the reason for it."""
    if status is None:
        return "unknown", f"no {STATUS_FILE}"
    state, reason = status.state or "unknown", status.message
    if not reason and state != "finished" and status.step is not None:
        reason = f"step {status.step} of {status.max_steps or 'unknown'}"
    return state, reason
