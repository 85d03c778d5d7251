"""A run while a job works on it: its locked folder and its tracker."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.errors import Interrupted
from pixelflow.processes import World, shared_errors
from pixelflow.runs.flat import flatten
from pixelflow.runs.folder import RunFolder, find_run_folder
from pixelflow.runs.identity import slug, training_overrides
from pixelflow.runs.settings import RunSettings
from pixelflow.runs.tags import run_tags
from pixelflow.signals import stop_on_signals
from pixelflow.tracking import MetricsLog, MLflowMirror, Tracker, read_records, sync
from pixelflow.tracking.jsonl import FILE_NAME
from pixelflow.tracking.mlflow.position import STATE_NAME, MirrorState, count_unsent

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]

ALONE = World()


class Onlooker:
    """Stands for a run's folder and tracker in every process but the first, which alone writes.

    Args:
        path: The run folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def set_status(self, state: str, **changes: Any) -> None:
        """Does nothing."""

    def log(self, values: Any, step: int) -> None:
        """Does nothing."""

    def artifact(self, path: Path) -> None:
        """Does nothing."""

    def resume_from(self, step: int) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Run:
    """An open run.

    Args:
        folder: The run folder, which this process holds.
        tracker: Writes metrics.jsonl and its mirror in MLflow.
    """

    folder: RunFolder | Onlooker
    tracker: Tracker | Onlooker

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path


def run_path(config: Config, overrides: list[str]) -> Path:
    """Returns the folder of this config's run; with `rerun=true` the first free name beside it."""
    settings = RunSettings.of(config)
    if settings.run_folder is not None:  # a job of a sweep: chosen at its submission
        return settings.run_folder
    name = slug(training_overrides(overrides))
    path = find_run_folder(config, name)
    if not settings.rerun:
        return path
    number = 2
    while (again := path.with_name(f"{path.name}-rerun{number}")).exists():
        number += 1
    return again


def catch_up(path: Path) -> None:
    """Sends to MLflow the records of a finished run that it has not received."""
    if (path / STATE_NAME).exists() and count_unsent(path):
        report = sync(path)
        logger.info("sent %d records to MLflow that were missing there", report.sent)
        if report.error:
            logger.warning("%d records are still not in MLflow: %s", report.unsent, report.error)


def mirror_evaluation(path: Path, evaluation: Path, experiment: str) -> None:
    """Sends an evaluation that job=evaluate has made of a run to the run's place in MLflow, if it has one.

    Evaluations for another experiment, such as the trials of a search, are not sent.

    Args:
        path: The run folder.
        evaluation: The file of the evaluation, in the run folder.
        experiment: The experiment of the command.
    """
    if not (path / STATE_NAME).exists() or MirrorState.load(path).experiment != experiment:
        return
    name = evaluation.relative_to(path).as_posix()
    if any(record.get("artifact") == name for record, _ in read_records(path / FILE_NAME, warn=False)):
        return
    log = MetricsLog(path)
    log.artifact(evaluation)
    log.close()
    catch_up(path)


@contextmanager
def open_run(path: Path, config: Config, world: World = ALONE) -> Iterator[Run]:
    """Opens the folder and the tracker of a run, and records how the run ends.

    Rank 0 locks the folder and writes for all processes. An error of one process, at opening or in the block, is
    raised in all of them, so that the recorded status names its cause. Signals that ask the job to stop are noted
    (see `stop_on_signals`).

    Args:
        path: The run folder.
        config: The resolved config of this call.
        world: The processes of the job.

    Yields:
        The open run.
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
        mirror, settings = None, RunSettings.of(config)
        if settings.tracking.mlflow:
            mirror = MLflowMirror(folder=path, uri=settings.mlflow_uri, experiment=settings.runs_of, run_name=path.name)
        tracker = Tracker(folder=path, mirror=mirror)
        try:
            tracker.params(flatten(folder.config))  # those of the first call, since parameters in MLflow are final
            tracker.tags(run_tags(path, config))
            tracker.artifact(path / "config.yaml")
            yield Run(folder, tracker)
        except BaseException as error:
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | Interrupted) else "FAILED")
            raise
        tracker.finish("FINISHED")
