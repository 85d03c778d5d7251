"""Training of a model, from the beginning or from the run's last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pixelflow.config.build import Config, pick_device, require_assets, trainer_settings
from pixelflow.config.same_data import FILE, examine_data
from pixelflow.config.training_parts import build_trainer, checkpoint_store
from pixelflow.config.validate_training import check_step
from pixelflow.files import write_json
from pixelflow.processes import World, processes, shared_errors
from pixelflow.runs.context import Run, open_run, run_path
from pixelflow.runs.folder import RunFolder
from pixelflow.terminal import say
from pixelflow.training.trainer import Trainer
from pixelflow.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


def run_training(config: Config, overrides: list[str]) -> None:
    """Runs job=train and prints the last checkpoint."""
    require_assets(config)
    with processes(pick_device(trainer_settings(config).device)) as (world, device):
        path, data = find_run(config, overrides, world)
        with open_run(path, config, world) as run:
            record_data(data, run)
            checkpoint = train(config, run, world, device)
            run.folder.set_status("finished", job="train")
    if world.rank == 0:
        say(f"trained: {checkpoint}")


def find_run(config: Config, overrides: list[str], world: World) -> tuple[Path, dict[str, Any] | None]:
    """Returns the run folder, and the record of the data that is to be written there, see `examine_data`.

    Args:
        config: The resolved config.
        overrides: The overrides that the user typed.
        world: The processes of the job.

    Raises:
        UserError: The data cannot be used, or are not those that the run was trained on, or the checkpoint to sample
            will not exist.
    """
    found: tuple[Path, dict[str, Any] | None] | None = None
    with shared_errors(world, wait=True):
        if world.rank == 0:
            path = run_path(config, overrides)
            check_step(config, path)
            found = path, examine_data(config, path)
    found = world.broadcast(found)
    assert found is not None
    return found


def record_data(data: dict[str, Any] | None, run: Run) -> None:
    """Writes the record of the data in the process that holds the run folder."""
    if data is not None and isinstance(run.folder, RunFolder):
        write_json(run.path / FILE, data)


def train(config: Config, run: Run, world: World, device: torch.device) -> Path:
    """Trains to `trainer.max_steps`, and returns the last checkpoint. Does nothing if that exists already."""
    settings = trainer_settings(config)
    store = checkpoint_store(settings, run.path)
    last = store.path(settings.max_steps)
    if world.broadcast(last.exists()):
        if world.rank == 0:
            store.tidy()  # a process that is killed after its last checkpoint may leave an older one half removed
        logger.info("the training is done: %s", last)
        run.tracker.resume_from(settings.max_steps)
        return last
    run.folder.set_status("running", job="train", max_steps=settings.max_steps)
    with _watched(settings.stall_seconds, run, world) as mark:
        trainer = build_trainer(config, run, world=world, device=device, mark=mark)
        logger.info("training %s on %s", run.path, _described(trainer))
        trainer.resume()
        run.tracker.resume_from(trainer.step)
        step = trainer.fit()
    run.folder.set_status("running", job="train", step=step)
    return last


@contextmanager
def _watched(seconds: float, run: Run, world: World) -> Iterator[Callable[[str], None]]:
    """Watches several processes. Yields the function that reports the progress of this one."""
    if world.size == 1:
        yield lambda what: None
        return

    def on_end(message: str) -> None:
        run.folder.set_status("failed", message=message)

    with Watchdog(rank=world.rank, size=world.size, store=world.store, seconds=seconds, on_end=on_end) as watchdog:
        yield watchdog.mark


def _described(trainer: Trainer) -> str:
    parameters = sum(p.numel() for p in trainer.state.backbone.parameters())
    several = f", {trainer.world.size} processes ({trainer.settings.parallel})" if trainer.world.size > 1 else ""
    return f"{trainer.device}{several} ({parameters:,} parameters)"
