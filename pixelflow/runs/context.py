"""A run while a job works on it: its folder, held and logged, and its tracker."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.runs.identity import slug, training_overrides
from pixelflow.processes import World, shared_errors
from pixelflow.runs.folder import RunFolder, find_run_folder
from pixelflow.signals import stop_on_signals
from pixelflow.runs.flat import flatten
from pixelflow.tracking import MLflowMirror, Tracker, sync
from pixelflow.tracking.mlflow.position import count_unsent
from pixelflow.errors import Interrupted

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]

ALONE = World()


class Onlooker:
    """Folder and tracker of a run for the processes beside the first: they leave the writing to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set_status(self, state: str, **more: Any) -> None: ...
    def log(self, values: Any, step: int) -> None: ...
    def artifact(self, path: Path) -> None: ...
    def resume_from(self, step: int) -> None: ...


@dataclass(frozen=True)
class Run:
    """folder: held by this process. tracker: metrics.jsonl and its mirror."""

    folder: RunFolder | Onlooker
    tracker: Tracker | Onlooker

    @property
    def path(self) -> Path:
        return self.folder.path


def run_path(config: Config, overrides: list[str]) -> Path:
    """Where this config's run lies. `rerun=true` finds the first free name beside it."""
    if config["run_folder"]:  # of a job of a sweep, chosen when it was submitted
        return Path(config["run_folder"])
    name = slug(training_overrides(overrides))
    path = find_run_folder(config, name)
    if not config["rerun"]:
        return path
    number = 2
    while (again := path.with_name(f"{path.name}-rerun{number}")).exists():
        number += 1
    return again


def tracking_uri(config: Config) -> str:
    database = (Path(config["runs_dir"]) / "mlflow.db").resolve()
    return config["tracking"]["uri"] or f"sqlite:///{database}"


def catch_up(path: Path) -> None:
    """Send what MLflow missed of a run that is over."""
    if (path / "mlflow.json").exists() and count_unsent(path):
        report = sync(path)
        logger.info("sent %d records to MLflow that it had missed", report.sent)
        if report.error:
            logger.warning("%d records are still not in MLflow: %s", report.unsent, report.error)


@contextmanager
def open_run(path: Path, config: Config, world: World = ALONE) -> Iterator[Run]:
    """Opens the folder and the tracker of a run, and records how the run ends.

    Rank 0 locks the folder and writes for all processes. An error of one process, at opening or in the block, is
    raised in all of them, so that the recorded status names its cause. Signals that ask the job to stop are noted
    (see `stop_on_signals`).
    """
    with stop_on_signals(), ExitStack() as stack:
        with shared_errors(world, wait=True):
            onlooker = Run(Onlooker(path), Onlooker(path))
            run = stack.enter_context(_opened(path, config)) if world.rank == 0 else onlooker
        with shared_errors(world):
            yield run


@contextmanager
def _opened(path: Path, config: Config) -> Iterator[Run]:
    with RunFolder(path, config) as folder:
        mirror = None
        if config["tracking"]["mlflow"]:
            mirror = MLflowMirror(
                folder=path, uri=tracking_uri(config), experiment=config["experiment"], run_name=path.name
            )
        tracker = Tracker(folder=path, mirror=mirror)
        try:
            tracker.params(flatten(folder.config))  # of the first call: MLflow never changes a parameter
            tracker.artifact(path / "config.yaml")
            yield Run(folder, tracker)
        except BaseException as error:
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED")
            raise
        tracker.finish("FINISHED")
